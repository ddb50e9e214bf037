"""Models by name, from a server on this machine that plays the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import pytest

from paddlenlp.transformers.hub import resolve_folder
from paddlenlp.utils.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny-llama"


class Hub:
    """The part of the hub's interface that downloads use, for one repository; counts what is asked."""

    def __init__(self, files: Dict[str, bytes]) -> None:
        self.files = files
        self.requests: List[Tuple[str, str, Optional[str]]] = []
        self.cut: Dict[str, int] = {}
        self.refuse: set = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, True)

            def do_HEAD(self) -> None:
                hub.answer(self, False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def downloads(self, ending: str) -> List[Optional[str]]:
        """The Range header (or None) of every download of a file whose name ends so."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(ending)]

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.requests.append((request.command, path, request.headers.get("Range")))
        if re.fullmatch(rf"/api/models/{NAME}(/revision/\w+)?", path):
            return self._json(request, {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": f} for f in self.files]})
        if path.startswith(f"/api/models/{NAME}/tree/"):
            return self._json(request, [self._entry(file) for file in self.files])
        found = re.fullmatch(rf"/{NAME}/resolve/\w+/(.+)", path)
        if found and found.group(1) in self.files:
            return self._file(request, found.group(1), body)
        return self._missing(request, "EntryNotFound" if found else "RepoNotFound")

    def _entry(self, file: str) -> dict:
        content = self.files[file]
        return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _json(self, request: BaseHTTPRequestHandler, value: object) -> None:
        content = json.dumps(value).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _missing(self, request: BaseHTTPRequestHandler, code: str) -> None:
        request.send_response(404)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Error-Message", "not here")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _file(self, request: BaseHTTPRequestHandler, file: str, body: bool) -> None:
        if body and file in self.refuse:
            request.send_response(503)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content = self.files[file]
        span = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        start = int(span.group(1)) if span else 0
        request.send_response(206 if span else 200)
        request.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(content) - start))
        if span:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        if body:
            # A cut file breaks off once, in the middle of its answer.
            end = self.cut.pop(file, len(content))
            request.wfile.write(content[start:end])
            request.close_connection = True


@pytest.fixture()
def hub(hf, tmp_path):
    folder = hf.write_folder(tmp_path / "served", hf.hf_arrays(), 2, {"format": "pt"})
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files.update({"tokenizer.json": b"{}", "pytorch_model.bin": b"\x80\x02pickle", "README.md": b"# tiny"})
    served = Hub(files)
    yield served
    served.server.shutdown()
    served.server.server_close()


def run(hub_url: str, cache: Path, code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, whose hub is `hub_url` and whose cache is `cache`."""
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("HF_")}
    env = {
        **kept,
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


RESOLVE = f"from paddlenlp.transformers.hub import resolve_folder; print(resolve_folder({NAME!r}))"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_a_model_loads_by_name(hub, hf, tmp_path):
    code = (
        "from paddlenlp.transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({NAME!r})\n"
        f"model.save_pretrained({str(tmp_path / 'out')!r}, save_to_hf=True)"
    )
    done = run(hub.url, tmp_path / "cache", code)
    assert done.returncode == 0, done.stderr
    assert hf.read_folder(tmp_path / "out") == hf.read_folder(tmp_path / "served")
    assert re.search(r"Downloading shards:  50%\|.*\| 1/2 \[", done.stderr)
    assert "HTTP Request" not in done.stderr
    assert re.search(r"Downloading shards: 100%\|.*\| 2/2 \[", done.stderr)


def test_the_cache_is_used_and_only_safe_files_are_fetched(hub, tmp_path):
    first = run(hub.url, tmp_path / "cache", RESOLVE)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    fetched = sorted(path.name for path in folder.iterdir())
    assert fetched == sorted(("config.json", "model.safetensors.index.json", "tokenizer.json", *SHARDS))
    assert all((folder / name).read_bytes() == hub.files[name] for name in fetched)
    assert hub.downloads(".bin") == [] and hub.downloads("README.md") == []
    assert len(hub.downloads(".safetensors")) == 2
    hub.requests.clear()
    second = run(hub.url, tmp_path / "cache", RESOLVE)
    assert second.stdout == first.stdout
    assert hub.downloads(".safetensors") == hub.downloads("config.json") == []
    offline = run("http://127.0.0.1:9", tmp_path / "cache", RESOLVE, HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout, offline.stderr


def test_only_the_patterns_asked_for_are_fetched(hub, tmp_path):
    code = f"from paddlenlp.transformers import AutoConfig; print(AutoConfig.from_pretrained({NAME!r}).hidden_size)"
    done = run(hub.url, tmp_path / "cache", code)
    assert done.stdout.strip() == "16", done.stderr
    assert len(hub.downloads("/config.json")) == 1
    assert hub.downloads("tokenizer.json") == hub.downloads(".safetensors") == []


def test_a_broken_connection_resumes_where_it_stopped(hub, tmp_path):
    hub.cut[SHARDS[1]] = 2500
    small_chunks = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1000\n"
    done = run(hub.url, tmp_path / "cache", small_chunks + RESOLVE)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / SHARDS[1]).read_bytes() == hub.files[SHARDS[1]]
    assert hub.downloads(SHARDS[1]) == [None, "bytes=2000-"]


def test_a_later_run_fetches_only_the_shards_that_are_missing(hub, tmp_path):
    hub.refuse.add(SHARDS[1])
    failed = run(hub.url, tmp_path / "cache", RESOLVE)
    assert failed.returncode == 1 and "UsageError" in failed.stderr and "503" in failed.stderr
    hub.refuse.clear()
    hub.requests.clear()
    done = run(hub.url, tmp_path / "cache", RESOLVE)
    assert done.returncode == 0, done.stderr
    assert hub.downloads(SHARDS[0]) == [] and hub.downloads(SHARDS[1]) == [None]


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("someone/else", {}, "there is no such model"),
        ("someone/else", {"HF_HUB_OFFLINE": "1"}, "downloads are switched off (HF_HUB_OFFLINE=1)"),
    ],
)
def test_a_model_that_cannot_be_had(hub, tmp_path, name, environment, said):
    done = run(hub.url, tmp_path / "cache", RESOLVE.replace(NAME, name), **environment)
    assert done.returncode == 1
    message = done.stderr.partition("UsageError: ")[2]
    assert f"'{name}': not a folder on this machine" in message
    assert said in message and hub.url in message and str(tmp_path / "cache") in message
    assert "Give a folder that holds config.json and *.safetensors, or set HF_ENDPOINT" in message


def test_no_server(tmp_path):
    done = run("http://127.0.0.1:9", tmp_path / "cache", RESOLVE)
    assert done.returncode == 1
    message = done.stderr.rpartition("UsageError: ")[2]
    assert "not had from http://127.0.0.1:9" in message and "Give a folder" in message


def test_a_repository_with_only_pickles(hub, tmp_path):
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    done = run(hub.url, tmp_path / "cache", RESOLVE)
    assert done.returncode == 1
    assert "has no model.safetensors. Pickled weights" in done.stderr
    assert hub.downloads(".bin") == []


@pytest.mark.parametrize("index", ['{"weight_map": {"a": "../../evil.safetensors"}}', '{"weight_map": {"a": "x.bin"}}'])
def test_an_index_that_names_other_files_is_refused(hub, tmp_path, index):
    hub.files["model.safetensors.index.json"] = index.encode()
    done = run(hub.url, tmp_path / "cache", RESOLVE)
    assert done.returncode == 1 and "names files that are not safetensors files beside it" in done.stderr


def test_folders_are_taken_as_they_are(tmp_path):
    assert resolve_folder(tmp_path) == tmp_path
    assert resolve_folder(str(tmp_path), ("config.json",)) == tmp_path


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "../up", "some one/x"])
def test_paths_that_are_not_there_do_not_go_to_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="neither a folder on this machine nor a model name"):
        resolve_folder(name)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is a file; give the folder"):
        resolve_folder(tmp_path / "config.json")
