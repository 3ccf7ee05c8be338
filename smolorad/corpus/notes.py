"""Notes that name files or fields: short sentences with a few names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from smolorad.corpus.named_splits import TEST, TRAIN, VALIDATION, NamedFiles

_MOST_NAMES, _MOST_CHARACTERS = 12, 60
_MOST_FIELDS = 200


def of_unused(fields: Sequence[str]) -> str:
    """Which fields are not used: each is named, as one that is not might change what its row means."""
    return f"Not used: {listed(fields, _MOST_FIELDS)}."


def listed(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    """Names with commas between them; in quotes those that would be misread, or cannot be written."""
    shown = [_plainly(name if len(name) <= _MOST_CHARACTERS else name[:_MOST_CHARACTERS] + "…") for name in names[:most]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _plainly(name: str) -> str:
    return name if name.isprintable() and name.strip() == name != "" and "," not in name else repr(name)


def rows_spoken(rows: int) -> str:
    """`1 row`, `2 rows`."""
    return "1 row" if rows == 1 else f"{rows:,} rows"


def of_rows_by_split(rows: Mapping[str, int]) -> str | None:
    """How rows were taken that say in a field which split they are of; None where all are trained on."""
    if not rows.get(VALIDATION) and not rows.get(TEST):
        return None
    taken = ((TRAIN, "trained on"), (VALIDATION, "held out"), (TEST, "left out"))
    parts = ", ".join(f"{rows[split]:,} of {split} {how}" for split, how in taken if rows.get(split))
    return f"Rows by their field 'split': {parts}. --splits ignore reads all of them alike."


def of_named_files(named: NamedFiles, test_rows: Mapping[str, int], held_rows: int) -> Iterator[str]:
    """How each file that is named as a split was taken; `held_rows` are the rows in those that are held out."""
    if named.all_ignored:
        yield f"Trained on, though named as another split, as there is nothing else to train on: {listed(named.not_counted)}."
        return
    by_split = {split: [file for file, said in named.splits.items() if said == split] for split in (TRAIN, VALIDATION, TEST)}
    parts = []
    if held := by_split[VALIDATION]:
        why = (
            "so that --validation draws no others"
            if held_rows
            else "but it has no row to hold out, so that --validation draws some"
        )
        parts.append(f"{listed(held)} held out, {why}")
    if tests := by_split[TEST]:
        rows = sum(test_rows[file] for file in tests)
        parts.append(f"{listed(tests)} left out ({rows_spoken(rows)})")
    if parts:
        trained = f"{listed(by_split[TRAIN])} trained on; " if by_split[TRAIN] else ""
        yield f"Files named as splits: {trained}{'; '.join(parts)}. --splits ignore reads all of them alike."
    if named.not_counted:
        yield f"Trained on like any other, as its name alone does not make it a split: {listed(named.not_counted)}."
