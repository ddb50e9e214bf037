"""Rules about folders and files the arguments name. They only look; nothing is made or written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List

from paddlenlp.data.blend_file import is_blend_file

from .rule import Rule

_WEIGHTS = ("*.safetensors",)


def is_local(name: str) -> bool:
    """Whether a model name means a folder: it exists, or it cannot be a hub name ("owner/name")."""
    return _is_folder(name) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _is_folder(name: str) -> bool:
    return os.path.isdir(os.path.expanduser(name))


def _missing_folder(name: str) -> bool:
    return is_local(name) and not _is_folder(name)


def _unwritable(folder: str) -> bool:
    """Whether `folder`, or the nearest existing folder above it, cannot be written."""
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK)


def _has(folder: str, *patterns: str) -> bool:
    return any(True for pattern in patterns for _ in Path(folder).expanduser().glob(pattern))


def _is_data(input_dir: str) -> bool:
    """Whether input_dir is a folder, the prefix of one data set, a blend file, or looks like weights and prefixes."""
    one = any(os.path.isfile(input_dir + suffix) for suffix in (".idx", "_idx.npz"))
    return os.path.isdir(input_dir) or one or is_blend_file(input_dir) or len(input_dir.split()) > 1


PATH_RULES: List[Rule] = [
    Rule(
        ("input_dir",),
        lambda a: bool(a.input_dir) and not _is_data(a.input_dir),
        lambda a: (
            f'the folder input_dir "{a.input_dir}" does not exist; make its .bin/.idx files with '
            f"llm/tools/create_pretraining_data.py, or correct the path (relative paths start at {os.getcwd()})"
        ),
    ),
    Rule(
        ("model_name_or_path", "config_name"),
        lambda a: _missing_folder(a.config_source),
        lambda a: f'the model folder "{a.config_source}" does not exist (relative paths start at {os.getcwd()})',
    ),
    Rule(
        ("model_name_or_path", "config_name"),
        lambda a: _is_folder(a.config_source) and not _has(a.config_source, "config.json"),
        lambda a: f'the model folder "{a.config_source}" has no config.json',
    ),
    Rule(
        ("tokenizer_name_or_path", "model_name_or_path"),
        lambda a: a.tokenizer_name_or_path is not None and _missing_folder(a.tokenizer_name_or_path),
        lambda a: (
            f'the tokenizer folder "{a.tokenizer_name_or_path}" does not exist; make one with '
            f"llm/tools/train_tokenizer.py, or correct the path (relative paths start at {os.getcwd()})"
        ),
    ),
    Rule(
        ("continue_training", "model_name_or_path"),
        lambda a: (
            a.continue_training and _is_folder(a.model_name_or_path) and not _has(a.model_name_or_path, *_WEIGHTS)
        ),
        lambda a: (
            f'continue_training needs weights, and "{a.model_name_or_path}" holds no .safetensors file; '
            "set continue_training to false to start from random weights"
        ),
    ),
    Rule(
        ("resume_from_checkpoint",),
        lambda a: bool(a.resume_from_checkpoint) and not _is_folder(a.resume_from_checkpoint),
        lambda a: (
            f'the checkpoint folder resume_from_checkpoint "{a.resume_from_checkpoint}" does not exist; leave it out '
            "to resume from the newest checkpoint of output_dir"
        ),
    ),
    Rule(
        ("output_dir",),
        lambda a: _unwritable(a.output_dir),
        lambda a: (
            f'output_dir "{a.output_dir}" cannot be made or written; choose another folder or change its permissions'
        ),
    ),
    Rule(
        ("data_cache",),
        lambda a: bool(a.data_cache) and _unwritable(a.data_cache),
        lambda a: (
            f'data_cache "{a.data_cache}" cannot be made or written; choose another folder or change its permissions'
        ),
    ),
]
