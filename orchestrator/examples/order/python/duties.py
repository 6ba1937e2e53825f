"""The three duties of a participant, kept in one SQLite file.

What goes in: a command as a broker handed it over (`Asked`). What comes out: its answer, the same whenever it is asked
again. What must be true: the answer, the mark of the step, and the effect are written by the same transaction, and the
answer leaves only after that transaction is durable.

1. Once: `answers` holds what was answered to an idempotency key. A repeat is answered from there.
2. Compensation wins: `marks` holds, by saga, run and step, whether a command took effect or its compensation was here.
3. Status: asked what became of a command, it answers as it did then, or by *not done*. That is binding: the key is sealed
   with the answer, and the command is refused however late it comes.
"""

import json
import sqlite3
import time
from dataclasses import dataclass

# How long answers are remembered: longer than any saga asks again.
REMEMBER_SECONDS = 30 * 24 * 60 * 60

# The longest id, step or key that is taken (bytes), as in the kit for Rust.
NAME_BYTES_MAX = 256

STATUS_QUERY, STATUS_NOT_DONE = "dirigent.StatusQuery", "dirigent.StatusNotDone"

# In the place of an answer: somebody counts on it not being done.
SEALED = "sealed"

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    idempotency_key TEXT PRIMARY KEY, type TEXT NOT NULL, body TEXT NOT NULL, answered_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS marks (
    place TEXT PRIMARY KEY, effect TEXT NOT NULL, marked_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (
    key INTEGER NOT NULL, kind TEXT NOT NULL, times INTEGER NOT NULL, causes TEXT NOT NULL, PRIMARY KEY (key, kind));
"""


class Unanswerable(Exception):
    """A message that does not say whom to answer, or for what: it is set aside."""


class Undecodable(Exception):
    """A body that is not what its type says."""


@dataclass
class Asked:
    """A command: its CloudEvents attributes without any binding's prefix, and its body."""

    attributes: dict
    body: bytes

    def __post_init__(self):
        for name in ("sagaid", "sagastep", "idempotencykey", "replyto"):
            value = self.attributes.get(name, "")
            if not value:
                raise Unanswerable(f"`{name}` is missing")
            if len(value.encode()) > NAME_BYTES_MAX:
                raise Unanswerable(f"`{name}` is longer than {NAME_BYTES_MAX} bytes")
        if self.leg not in ("do", "compensate", "status"):
            raise Unanswerable("`sagaleg` is neither `do`, `compensate` nor `status`")

    @property
    def leg(self):
        return self.attributes.get("sagaleg", "do")

    @property
    def attempt(self):
        text = self.attributes.get("sagaattempt", "1")
        return int(text) if text.isdecimal() else 1

    @property
    def place(self):
        """The same for a command and its compensation."""
        return "/".join((self.attributes["sagaid"], self.attributes.get("sagarun", "0"), self.attributes["sagastep"]))

    def fields(self):
        content_type = self.attributes.get("datacontenttype", "application/json").split(";")[0].strip()
        if content_type != "application/json":
            raise Undecodable(f"content type `{content_type}` is not application/json")
        try:
            fields = json.loads(self.body)
        except ValueError as error:
            raise Undecodable(f"the body is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise Undecodable("the body is no JSON object")
        return fields


def failure(code, message, retriable=False, effect="none"):
    return "Failure", {"code": code, "message": message, "retriable": retriable, "effect": effect}


class Book:
    """The file, and what the duties read and write in it."""

    def __init__(self, path):
        # Transactions are begun and ended by hand, so that a window of commands is one of them.
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(SCHEMA)

    def carry_out(self, window, service):
        """Answers a window of commands in one transaction: (type, fields) for each, in their order."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            answers = [self._answer(asked, service) for asked in window]
            self._forget()
            self.db.execute("COMMIT")
            return answers
        except BaseException:
            self.db.execute("ROLLBACK")
            raise

    def _answer(self, asked, service):
        key = asked.attributes["idempotencykey"]
        if asked.attributes.get("type") == STATUS_QUERY:
            return self._status(asked, service)
        known = self._answered(key)
        if known and known[0] == SEALED:
            return failure(SEALED, "its status was asked for and was `not done`; nothing was done")
        if known:
            return known
        command = service.commands.get((asked.attributes.get("type"), asked.leg))
        if command is None:
            return failure("unknown-command", f"no command `{asked.attributes.get('type')}` ({asked.leg}) here")
        self.db.execute("SAVEPOINT command")
        try:
            name, fields = self._decide(asked, command)
        except Undecodable as error:
            self.db.execute("ROLLBACK TO command")
            return failure("undecodable", str(error))
        except Exception as error:  # pylint: disable=broad-except
            # Everything the handler wrote is taken back with the savepoint, so there is certainly no effect.
            self.db.execute("ROLLBACK TO command")
            return failure("failed", repr(error), retriable=True)
        finally:
            self.db.execute("RELEASE command")
        if name != "Failure":
            self._remember(key, name, fields)
        return name, fields

    def _status(self, asked, service):
        try:
            query = asked.fields()
        except Undecodable as error:
            return failure("undecodable", str(error), effect="unknown")
        key, command = query.get("idempotencykey"), query.get("command")
        if not isinstance(key, str) or not 0 < len(key.encode()) <= NAME_BYTES_MAX:
            return failure("undecodable", "the question names no idempotency key", effect="unknown")
        known = self._answered(key)
        if known and known[0] != SEALED:
            return known
        if not known:
            if not any(name == command for name, _ in service.commands):
                return failure("unknown-command", f"no command `{command}` here", effect="unknown")
            self._remember(key, SEALED, {})
        return STATUS_NOT_DONE, {}

    def _answered(self, key):
        row = self.db.execute("SELECT type, body FROM answers WHERE idempotency_key = ?", (key,)).fetchone()
        return (row[0], json.loads(row[1])) if row else None

    def _remember(self, key, name, fields):
        # Two processes at once: the second finds the key taken, and its whole transaction with it.
        self.db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, name, json.dumps(fields), time.time()))

    def _decide(self, asked, command):
        fields = asked.fields()
        mark = self.db.execute("SELECT effect FROM marks WHERE place = ?", (asked.place,)).fetchone()
        if asked.leg == "compensate":
            # Compensation wins: without an effect it is answered all the same, and remembered.
            answer = command(self, fields, asked, undoes=mark == ("took",))
            self._mark(asked.place, "undone")
            return answer
        if mark == ("undone",):
            return failure("compensated", "its compensation was here first; nothing was done")
        answer = command(self, fields, asked)
        if answer[0] in command.successes:
            self._mark(asked.place, "took")
        return answer

    def _mark(self, place, effect):
        self.db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (place, effect, time.time()))

    def _forget(self):
        old = time.time() - REMEMBER_SECONDS
        self.db.execute("DELETE FROM answers WHERE answered_at < ?", (old,))
        self.db.execute("DELETE FROM marks WHERE marked_at < ?", (old,))

    # The service's own table: how often each effect was applied for a business key.

    def apply(self, key, kind, cause):
        row = self.db.execute("SELECT times, causes FROM ledger WHERE key = ? AND kind = ?", (key, kind)).fetchone()
        times, causes = (row[0], json.loads(row[1])) if row else (0, [])
        self.db.execute(
            "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?)",
            (key, kind, times + 1, json.dumps((causes + [cause])[:8])),
        )

    def times(self, key, kind):
        row = self.db.execute("SELECT times FROM ledger WHERE key = ? AND kind = ?", (key, kind)).fetchone()
        return row[0] if row else 0

    def entries(self):
        rows = self.db.execute("SELECT key, kind, times, causes FROM ledger ORDER BY key, kind")
        return [dict(key=key, kind=kind, times=times, causes=json.loads(causes)) for key, kind, times, causes in rows]
