"""PdArgumentParser: JSON file and command line into argument objects, strictly, every problem in one report."""

from __future__ import annotations

import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, get_type_hints

from paddlenlp.utils.errors import UsageError

from . import rules
from .fields import is_required
from .foreign import explain_unknown
from .help_text import help_text
from .json_scan import Entry, JsonSyntaxError, scan_object
from .suggest import nearest
from .values import WrongValue, from_json, from_words, is_bool, is_switch

COMMAND_LINE = "command line"


class Given(NamedTuple):
    """One argument as the user wrote it: words of the command line, or a JSON value."""

    name: str
    value: Any
    where: str


class PdArgumentParser:
    """Reads arguments for one or more dataclasses made with `paddlenlp.trainer.fields`.

    After `parse`:
        origins: argument -> "default", "config.json:12" or "command line".
        notes: sentences the caller should log: what was accepted but changes nothing, what was corrected.
    """

    def __init__(self, dataclass_types: Any, prog: Optional[str] = None) -> None:
        self.dataclass_types = tuple(dataclass_types) if isinstance(dataclass_types, Iterable) else (dataclass_types,)
        self.prog = prog or Path(sys.argv[0]).name
        self.fields: Dict[str, Field] = {}
        self.types: Dict[str, Any] = {}
        for cls in self.dataclass_types:
            self.fields.update({item.name: item for item in fields(cls)})
            self.types.update(get_type_hints(cls))
        self.origins: Dict[str, str] = {}
        self.notes: List[str] = []
        self._problems: List[Tuple[str, str]] = []
        self._cut_short = False
        self._doubtful: Set[str] = set()  # arguments whose value is not known for sure: rules leave them alone

    # ---- ways in ---------------------------------------------------------------------------------------------

    def parse(self, argv: Optional[Sequence[str]] = None, check_files: bool = True) -> Tuple[Any, ...]:
        """The argument objects, in the order of the dataclasses.

        Args:
            argv: words; default `sys.argv[1:]`. If the first ends in .json it is a file of arguments; the rest of the
                line overrides it. `--help [WORD]` prints help and exits.
            check_files: also check that the folders named exist and output_dir can be written.

        Raises:
            UsageError: with every problem, each with its place.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        if any(word in ("--help", "-h") for word in words):
            position = next(i for i, word in enumerate(words) if word in ("--help", "-h"))
            print(help_text(self.prog, self.fields, self.types, " ".join(words[position + 1 : position + 2])))
            raise SystemExit(0)
        self._start()
        from_file: List[Given] = []
        if words and words[0].endswith(".json"):
            from_file = self._read_file(words.pop(0))
        return self._finish(from_file, self._read_words(words), check_files)

    def parse_args_into_dataclasses(self, args: Optional[Sequence[str]] = None) -> Tuple[Any, ...]:
        """`parse` under the reference's name."""
        return self.parse(args)

    def parse_json_file_and_cmd_lines(self) -> Tuple[Any, ...]:
        """`parse` of `sys.argv`, under the reference's name."""
        return self.parse()

    def parse_json_file(self, json_file: str) -> Tuple[Any, ...]:
        """The argument objects of a JSON file alone."""
        self._start()
        return self._finish(self._read_file(str(json_file)), [], True)

    def parse_dict(self, args: Mapping[str, Any]) -> Tuple[Any, ...]:
        """The argument objects of a dictionary of JSON values; files are not checked."""
        self._start()
        return self._finish(self._known(Given(key, value, "dictionary") for key, value in args.items()), [], False)

    # ---- reading ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.origins, self.notes, self._problems, self._cut_short, self._doubtful = {}, [], [], False, set()

    def _problem(self, where: str, text: str) -> None:
        self._problems.append((where, text))

    def _read_file(self, path: str) -> List[Given]:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UsageError(f"The argument file {path} does not exist.{_neighbours(path)}") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"The argument file {path} cannot be read: {error}") from None
        name = Path(path).name
        try:
            entries = scan_object(text)
        except JsonSyntaxError as error:
            self._problem(f"{name}:{error.line}", str(error))
            entries = error.entries
            self._cut_short = True
        return self._known(Given(e.key, e.value, f"{name}:{e.line}") for e in self._without_duplicates(name, entries))

    def _without_duplicates(self, name: str, entries: List[Entry]) -> List[Entry]:
        first: Dict[str, Entry] = {}
        for entry in entries:
            if entry.key in first:
                text = f'"{entry.key}" is given twice, in lines {first[entry.key].line} and {entry.line}; delete one'
                self._problem(f"{name}:{entry.line}", text)
            first.setdefault(entry.key, entry)
        return list(first.values())

    def _read_words(self, words: List[str]) -> List[Given]:
        """`--name v`, `--name=v`, `--name v1 v2`, `--flag`, `--no_flag`; a later one replaces an earlier one."""
        given: Dict[str, Given] = {}
        position = 0
        while position < len(words):
            word, position = words[position], position + 1
            if not _is_option(word):
                self._problem(COMMAND_LINE, f'unexpected "{word}": values follow their --name')
                continue
            name, equals, value = word[2:].partition("=")
            values = [value] if equals else []
            while not equals and position < len(words) and not _is_option(words[position]):
                values, position = [*values, words[position]], position + 1
            self._add(given, name, values)
        return list(given.values())

    def _add(self, given: Dict[str, Given], name: str, values: List[str]) -> None:
        negated = name[3:] if name.startswith("no_") and name not in self.fields else ""
        if negated in self.fields and is_bool(self.types[negated]) and self.fields[negated].default is True:
            if values:
                self._problem(COMMAND_LINE, f"--{name} takes no value; write --{negated} true or false")
            name, values = negated, ["false"]
        for item in self._known([Given(name, values, COMMAND_LINE)]):
            if not values and is_switch(self.types[name], self.fields[name]):
                item = Given(name, ["true"], COMMAND_LINE)
            elif not values:
                self._problem(COMMAND_LINE, f"--{name} needs a value")
                continue
            if name in given:
                self.notes.append(f"--{name} is given more than once on the command line; the last one counts.")
            given[name] = item

    def _known(self, given: Iterable[Given]) -> List[Given]:
        """Those whose name exists; the others become problems."""
        kept = []
        for item in given:
            if item.name in self.fields:
                kept.append(item)
            else:
                self._problem(item.where, explain_unknown(item.name, self.fields, item.where == COMMAND_LINE))
                self._doubtful.update(nearest(item.name, self.fields)[:1])
        return kept

    # ---- objects ---------------------------------------------------------------------------------------------

    def _finish(self, from_file: List[Given], from_line: List[Given], check_files: bool) -> Tuple[Any, ...]:
        values: Dict[str, Any] = {}
        self.origins = dict.fromkeys(self.fields, "default")
        for item in (*from_file, *from_line):
            try:
                self._take(item, values)
            except WrongValue as error:
                shown = f"--{item.name}" if item.where == COMMAND_LINE else f'"{item.name}"'
                self._problem(item.where, f"{shown} {error}")
                self._doubtful.add(item.name)
        self._check_required(values)
        made = tuple(self._make(cls, values) for cls in self.dataclass_types)
        for where, text in rules.failures(made, self.origins, self._doubtful, check_files):
            self._problem(where, text)
        if self._problems:
            raise UsageError(self._report())
        self.notes += rules.notes(made, self.origins)
        return made

    def _take(self, item: Given, values: Dict[str, Any]) -> None:
        """Converts one argument into `values` and records its origin; null takes it back to the default."""
        field, kind = self.fields[item.name], self.types[item.name]
        if item.where == COMMAND_LINE:
            value = from_words(kind, item.value, field)
        else:
            value = None if item.value is None else from_json(kind, item.value, field)
        if value is None:
            values.pop(item.name, None)
            self.origins[item.name] = "default"
        else:
            values[item.name] = value
            self.origins[item.name] = item.where

    def _check_required(self, values: Dict[str, Any]) -> None:
        for name, field in self.fields.items():
            if is_required(field) and not values.get(name):
                values[name] = ""
                if name not in self._doubtful and not self._cut_short:
                    self._problem("not set", f'"{name}" is required: {field.metadata["help"]}')
                self._doubtful.add(name)

    def _make(self, cls: Any, values: Mapping[str, Any]) -> Any:
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def _report(self) -> str:
        count = len(self._problems)
        lines = [f"{where}: {text}" for where, text in sorted(self._problems, key=lambda problem: _order(problem[0]))]
        return "\n".join(
            [
                f"{count} problem{'s' if count > 1 else ''} in the arguments:",
                *(f"  {line}" for line in lines),
                f"`{self.prog} --help WORD` explains the arguments whose name holds WORD.",
            ]
        )


def _is_option(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _order(where: str) -> Tuple[int, int]:
    """Sorting key of a place: the file by lines, then the command line, then what is not set."""
    line = where.rpartition(":")[2]
    return (0, int(line)) if line.isdigit() else (1 + (where != COMMAND_LINE), 0)


def _neighbours(path: str) -> str:
    """Argument files of a like name in the same folder, for the end of an error message."""
    folder = Path(path).parent
    names = [item.name for item in folder.glob("*.json")] if folder.is_dir() else []
    near = nearest(Path(path).name, names)
    return f" Did you mean {folder / near[0]}?" if near else ""
