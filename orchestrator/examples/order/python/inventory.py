#!/usr/bin/env python3
"""The inventory of the order saga in Python: sets stock aside and gives it back.

    inventory.py run --broker kafka|rabbitmq --ledger FILE     reads DIRIGENT_KAFKA or DIRIGENT_RABBITMQ; ends with its input
    inventory.py ledger --ledger FILE                          prints its ledger as JSON
    inventory.py probe --ledger FILE COMMAND KEY               prints how often a command took effect, for the conformance kit

It needs no library of Dirigent: `duties.py` keeps the three duties in SQLite, `brokers.py` speaks CloudEvents. It decides
as the inventory in Rust does, so that a demo ends the same whichever of the two takes part.
"""

import argparse
import json
import logging
import os
import sys
import threading
import uuid
from datetime import datetime, timezone

import brokers
from duties import Asked, Book, Unanswerable, Undecodable

NAME = "order-inventory"
CHANNEL = "inventory"
RESERVED, RELEASED = "reserved", "released"
MASK = (1 << 64) - 1

log = logging.getLogger("inventory")


def order_of(fields):
    order = fields.get("order")
    if not isinstance(order, int) or isinstance(order, bool):
        raise Undecodable("`order` is not a number")
    return order


class Inventory:
    """The commands of this service, by type and leg."""

    def __init__(self, rates):
        self.rates = rates
        self.commands = {("ReserveStock", "do"): Reserve(rates), ("ReleaseStock", "compensate"): Release()}


class Reserve:
    successes = ("StockReserved",)

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, book, fields, asked):
        order = order_of(fields)
        if not isinstance(fields.get("sku"), str) or not isinstance(fields.get("quantity"), int):
            raise Undecodable("`sku` and `quantity` are wanted")
        if self.rates.is_out_of_stock(order):
            return "StockRejected", {"sku": fields["sku"]}
        book.apply(order, RESERVED, asked.attributes["idempotencykey"])
        return "StockReserved", {"reservation": order}


class Release:
    successes = ("StockReleased",)

    def __call__(self, book, fields, asked, undoes):
        order = order_of(fields)
        if undoes and book.times(order, RESERVED) > book.times(order, RELEASED):
            book.apply(order, RELEASED, asked.attributes["idempotencykey"])
        return "StockReleased", {}


class Rates:
    """Which orders go wrong: the same numbers as `rates.rs` draws, so that both end the same orders the same way."""

    def __init__(self, seed, reject, silent):
        self.seed, self.reject, self.silent = seed, reject, silent

    def is_out_of_stock(self, order):
        if self._chance(order, "reject") >= self.reject:
            return False
        is_large = self._draw(order, "large") % 10 == 0
        return self._draw(order, "refusal") % (4 if is_large else 3) == 0

    def is_silent(self, asked):
        """Acts and does not answer, as if the reply had been lost."""
        subject = asked.attributes.get("subject", "")
        if asked.leg != "do" or not subject.isdecimal():
            return False
        order = int(subject)
        return self._chance(order, "silent") < self.silent and self._draw(order, "unanswered") % 4 == 0

    def _chance(self, order, what):
        return (self._draw(order, what) >> 11) / (1 << 53)

    def _draw(self, order, what):
        purpose = 0xCBF29CE484222325
        for byte in what.encode():
            purpose = ((purpose ^ byte) * 0x100000001B3) & MASK
        mixed = (_mix(self.seed ^ purpose) + order) & MASK
        return _mix((mixed * 0x9E3779B97F4A7C15) & MASK)


def _mix(value):
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def now():
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def reply(asked, answer, prefix):
    """The answer as a message: it echoes what finds its saga, and its id follows from what it answers."""
    name, fields = answer
    said = asked.attributes
    attributes = {
        "specversion": "1.0",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{said['idempotencykey']}/reply/{asked.attempt}")),
        "source": f"/{NAME}",
        "type": name,
        "time": now(),
        "datacontenttype": "application/json",
    }
    for echoed in (
        "subject", "sagaid", "sagarun", "sagastep", "sagaleg", "sagaattempt", "idempotencykey", "traceparent", "tracestate",
    ):
        if echoed in said:
            attributes[echoed] = said[echoed]
    return brokers.Message(prefix + said["replyto"], said.get("subject", ""), attributes, json.dumps(fields).encode())


def set_aside(message, why, prefix):
    """A dead letter: bytes, headers and key as they came, and why."""
    attributes = {
        **message.attributes,
        "deadreason": "unanswerable",
        "deadtext": why,
        "deadchannel": message.channel,
        "deadtime": now(),
    }
    return brokers.Message(f"{prefix}{NAME}.dead-letters", message.key, attributes, message.body, message.others)


def run(arguments):
    book = Book(arguments.ledger)
    rates = Rates(arguments.seed, arguments.reject_rate, arguments.silent_rate)
    service = Inventory(rates)
    prefix = arguments.prefix
    variable = {"kafka": "DIRIGENT_KAFKA", "rabbitmq": "DIRIGENT_RABBITMQ"}[arguments.broker]
    address = os.environ.get(variable)
    if not address:
        sys.exit(f"the address of the broker is to be in {variable}")

    def handle(window):
        asked, out = [], []
        for message in window:
            try:
                asked.append(Asked(message.attributes, message.body))
            except Unanswerable as error:
                log.warning("A message was set aside: %s", error)
                out.append(set_aside(message, str(error), prefix))
        # Durable when this returns: only then may an answer leave.
        answers = book.carry_out(asked, service)
        loud = (pair for pair in zip(asked, answers) if not rates.is_silent(pair[0]))
        return out + [reply(one, answer, prefix) for one, answer in loud]

    ended = threading.Event()
    if arguments.until_input_ends:
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    log.info("Reading %s%s at %s.", prefix, CHANNEL, arguments.broker)
    try:
        brokers.run(arguments.broker, address, prefix + CHANNEL, prefix + NAME, handle, ended.is_set)
    except KeyboardInterrupt:
        pass


def ledger(arguments):
    json.dump(Book(arguments.ledger).entries(), sys.stdout)


def probe(arguments):
    book, is_reserve = Book(arguments.ledger), arguments.command == "ReserveStock"
    key = int(arguments.key)
    json.dump(
        {
            "applied": book.times(key, RESERVED) if is_reserve else 0,
            "undone": book.times(key, RELEASED) if is_reserve else 0,
        },
        sys.stdout,
    )


def main():
    parser = argparse.ArgumentParser(description="The inventory of the order saga, in Python.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="carries out commands")
    runs.add_argument("--broker", choices=("kafka", "rabbitmq"), required=True)
    runs.add_argument("--prefix", default="", help="what its channels begin with at the broker")
    runs.add_argument("--reject-rate", type=float, default=0.1)
    runs.add_argument("--silent-rate", type=float, default=0.0)
    runs.add_argument("--seed", type=int, default=1)
    runs.add_argument("--until-input-ends", action="store_true", help="ends when its standard input is closed")
    runs.set_defaults(carry_out=run)
    prints = verbs.add_parser("ledger", help="prints its ledger as JSON")
    prints.set_defaults(carry_out=ledger)
    probes = verbs.add_parser("probe", help="how often a command took effect for a business key")
    probes.set_defaults(carry_out=probe)
    for verb in (runs, prints, probes):
        verb.add_argument("--ledger", required=True, help="the SQLite file")
    probes.add_argument("command")
    probes.add_argument("key")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    arguments = parser.parse_args()
    arguments.carry_out(arguments)


if __name__ == "__main__":
    main()
