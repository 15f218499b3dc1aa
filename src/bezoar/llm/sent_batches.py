"""Batches that a server works on, in the journal's file: a process that goes on finds them."""

from collections.abc import Collection
from typing import NamedTuple

from bezoar.llm.journal import Journal

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS batches (token TEXT PRIMARY KEY, id TEXT NOT NULL,"
    " model TEXT NOT NULL, keys TEXT NOT NULL)"
)


class SentBatch(NamedTuple):
    """A batch: `token` is ours, `id` the server's ("" until it is known), `keys` are those of the
    requests in it whose outcome is not in the journal yet."""

    token: str
    id: str
    keys: list[str]


class SentBatches:
    """Those of the language model `model` (an identity)."""

    def __init__(self, journal: Journal, model: str) -> None:
        self._journal, self._model = journal, model

    def open(self) -> list[SentBatch]:
        """All that are not fetched whole, oldest first."""
        if not self._journal.select("SELECT 1 FROM sqlite_master WHERE name = 'batches'"):
            return []
        sql = "SELECT token, id, keys FROM batches WHERE model = ? ORDER BY rowid"
        rows = self._journal.select(sql, (self._model,))
        return [SentBatch(token, name, keys.split()) for token, name, keys in rows]

    def add(self, batch: SentBatch) -> None:
        """Note a batch before the server hears of it."""
        self._journal.change(_SCHEMA)
        # the keys alone: what was asked is known to whoever asks for them again
        values = (batch.token, batch.id, self._model, " ".join(batch.keys))
        self._journal.change("INSERT INTO batches VALUES (?, ?, ?, ?)", values)

    def name(self, token: str, name: str) -> None:
        """Note the server's id."""
        self._journal.change("UPDATE batches SET id = ? WHERE token = ?", (name, token))

    def keep(self, token: str, keys: Collection[str]) -> None:
        """Note what is still to be fetched; without anything the batch is forgotten."""
        if keys:
            values = (" ".join(keys), token)
            self._journal.change("UPDATE batches SET keys = ? WHERE token = ?", values)
        else:
            self._journal.change("DELETE FROM batches WHERE token = ?", (token,))
