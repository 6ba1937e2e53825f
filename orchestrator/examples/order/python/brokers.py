"""Commands in and replies out, over Kafka and RabbitMQ, with their plain clients.

What goes in: a channel to read and a function that takes a window of messages and returns the messages to send. What must
be true: a window is settled only after everything it led to is durable here and confirmed by the broker, so whatever goes
wrong in between comes again. A connection that breaks is built anew, for ever.

Messages are CloudEvents in binary mode: headers `ce_<name>` on Kafka, `cloudEvents_<name>` on AMQP, where the usual
properties say the same.
"""

import logging
import time
from dataclasses import dataclass, field

# Messages of one window at the most.
WINDOW_MAX = 256

# The longest pause before a broker is tried again, in seconds.
DELAY_MAX = 5.0

# Carried without a prefix by both bindings.
BARE = ("traceparent", "tracestate")

log = logging.getLogger("brokers")


@dataclass
class Message:
    channel: str
    key: str
    attributes: dict
    body: bytes
    others: dict = field(default_factory=dict)


def run(broker, address, channel, group, handle, stopped):
    """Reads until `stopped()`; whatever breaks is told and tried again."""
    at = {"kafka": _kafka, "rabbitmq": _rabbitmq}[broker]
    delay = 0.1
    while not stopped():
        begun = time.monotonic()
        try:
            at(address, channel, group, handle, stopped)
        except Exception as error:  # pylint: disable=broad-except
            # What worked for a while starts again with a short pause.
            delay = 0.1 if time.monotonic() - begun > 10 else min(delay * 2, DELAY_MAX)
            log.warning("The broker is away, trying again in %.1f s: %r", delay, error)
            time.sleep(delay)


# Kafka


def _kafka(address, channel, group, handle, stopped):
    from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, NewTopic

    common = {"bootstrap.servers": address}
    # Subscribing to a topic that is not there is noticed only minutes later.
    admin = AdminClient(common)
    wanted = [NewTopic(name, num_partitions=-1, replication_factor=-1) for name in (channel, f"{group}.dead-letters")]
    for created in admin.create_topics(wanted).values():
        try:
            created.result(20)
        except Exception as error:  # pylint: disable=broad-except
            if not error.args or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    producer = Producer({**common, "enable.idempotence": True, "linger.ms": 0})
    consumer = Consumer(
        {
            **common,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    try:
        consumer.subscribe([channel])
        while not stopped():
            records = consumer.consume(WINDOW_MAX, timeout=0.1)
            for record in records:
                if record.error():
                    raise RuntimeError(record.error())
            if not records:
                continue
            failed = []
            for message in handle([_from_kafka(record) for record in records]):
                producer.produce(
                    message.channel,
                    message.body,
                    message.key,
                    headers=_to_kafka(message),
                    on_delivery=lambda error, _: failed.append(error) if error else None,
                )
            if producer.flush(30) or failed:
                raise RuntimeError(f"Kafka has not confirmed all answers: {failed[:1]}")
            # The highest offset of each partition: everything below is answered.
            ends = {(record.topic(), record.partition()): record.offset() + 1 for record in records}
            consumer.commit(
                offsets=[TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()],
                asynchronous=False,
            )
    finally:
        consumer.close()


def _from_kafka(record):
    attributes, others = {}, {}
    for name, value in record.headers() or []:
        text = (value or b"").decode(errors="replace")
        if name.startswith("ce_"):
            attributes[name[3:]] = text
        elif name == "content-type":
            attributes["datacontenttype"] = text
        elif name in BARE:
            attributes[name] = text
        else:
            others[name] = value
    key = (record.key() or b"").decode(errors="replace")
    return Message(record.topic(), key, attributes, record.value() or b"", others)


def _to_kafka(message):
    def header(name):
        return "content-type" if name == "datacontenttype" else name if name in BARE else f"ce_{name}"

    return [(header(name), value.encode()) for name, value in message.attributes.items()] + list(message.others.items())


# RabbitMQ


def _rabbitmq(address, channel, group, handle, stopped):
    import pika
    from pika.exceptions import UnroutableError

    connection = pika.BlockingConnection(pika.URLParameters(address))
    try:
        amqp = connection.channel()
        # As the orchestrator declares it: replicated, one consumer at a time, and nothing is dropped by counting.
        arguments = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-delivery-limit": 1_000_000_000,
        }
        for queue in (channel, f"{group}.dead-letters"):
            amqp.queue_declare(queue, durable=True, arguments=arguments)
        amqp.basic_qos(prefetch_count=WINDOW_MAX)
        amqp.confirm_delivery()
        for method, properties, body in amqp.consume(channel, inactivity_timeout=0.1):
            if stopped():
                return
            if method is None:
                continue
            # One by one: with this client each confirm is waited for before the next message leaves.
            for message in handle([_from_amqp(channel, properties, body)]):
                try:
                    amqp.basic_publish("", message.channel, message.body, _to_amqp(message), mandatory=True)
                except UnroutableError:
                    log.warning("Nobody reads `%s` any more; an answer is dropped.", message.channel)
            amqp.basic_ack(method.delivery_tag)
        raise RuntimeError(f"the queue `{channel}` was deleted")
    finally:
        if connection.is_open:
            connection.close()


def _from_amqp(channel, properties, body):
    attributes, others = {}, {}
    for name, value in (properties.headers or {}).items():
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        if name.startswith(("cloudEvents_", "cloudEvents:")):
            attributes[name[len("cloudEvents_") :]] = text
        elif name in BARE:
            attributes[name] = text
        elif name not in ("x-delivery-count", "x-acquired-count"):
            others[name] = value
    for name, value in (
        ("id", properties.message_id),
        ("type", properties.type),
        ("datacontenttype", properties.content_type),
        ("replyto", properties.reply_to),
    ):
        if value:
            attributes.setdefault(name, value)
    key = attributes.pop("partitionkey", attributes.get("subject", ""))
    return Message(channel, key, attributes, body, others)


def _to_amqp(message):
    import pika

    attributes = message.attributes
    headers = dict(message.others)
    headers["cloudEvents_partitionkey"] = message.key
    for name, value in attributes.items():
        if name != "datacontenttype":
            headers[name if name in BARE else f"cloudEvents_{name}"] = value
    return pika.BasicProperties(
        message_id=attributes.get("id"),
        correlation_id=attributes.get("sagaid"),
        type=attributes.get("type"),
        content_type=attributes.get("datacontenttype"),
        delivery_mode=2,
        headers=headers,
    )
