"""`tts-tree`: the search trees of a run, to look at or to work with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tts_engine.cli.common import guarded, make_parser

EPILOG = """\
examples:
  tts-run --limit 5 --out runs/mine && tts-tree runs/mine --out tree.html     then open tree.html in a browser
  tts-tree runs/mine --problem gsm8k-12 --out tree.graphml                    for networkx, Gephi, yEd
  tts-tree runs/mine --out trees.json
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = make_parser(
        "tts-tree", "Export the search trees of a run: an HTML page to walk through, GraphML or JSON.", EPILOG
    )
    command.add_argument("run", type=Path, metavar="RUN_FOLDER", help="what tts-run wrote with --out")
    command.add_argument("--problem", metavar="ID", help="only this problem; GraphML takes one")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .html, .graphml or .json")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for bad input."""
    arguments = parser().parse_args(argv)
    return guarded("tts-tree", lambda: export(arguments.run, arguments.problem, arguments.out))


def export(folder: Path, problem: str | None, out: Path) -> int:
    """Write the trees of `folder` (or of one problem) to `out`.

    Raises:
        UsageError: there is nothing to write, or `out` names no known form.
    """
    from tts_engine.errors import ConfigError, DataError
    from tts_engine.report.viewer import load_trees, to_graphml, to_html, to_json

    trees = load_trees(folder)
    known = ", ".join(str(tree["id"]) for tree in trees[:8])
    if problem is not None:
        trees = [tree for tree in trees if tree["id"] == problem]
    if not trees:
        raise DataError(f"{folder} has no tree of problem {problem!r}; it has {known or 'none'}")
    match out.suffix.lower():
        case ".html":
            text = to_html(trees, str(folder.resolve().name))
        case ".json":
            text = to_json(trees)
        case ".graphml" if len(trees) == 1:
            text = to_graphml(trees[0])
        case ".graphml":
            raise ConfigError(f"GraphML holds one tree, and there are {len(trees)}; add --problem with one of {known}")
        case other:
            raise ConfigError(f"--out ends in {other or 'nothing'!r}; end it in .html, .graphml or .json")
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {out} ({error.strerror}); choose another --out") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
