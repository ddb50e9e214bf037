// In op_meta_info.h.
#pragma once
