"""What the workshop knows about its customers. Nothing here knows about chats."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    number: str
    thing: str
    status: str


ORDERS = {
    "ines": [
        Order("1042", "city bike, size M", "delivered on 3 May, under warranty"),
        Order("1077", "pannier bags", "packed, leaves tomorrow"),
    ],
    "guest": [Order("1001", "bell, brass", "ready to be fetched")],
}


def orders_of(customer: str) -> list[Order]:
    return ORDERS.get(customer, [])


def record_of(customer: str) -> str:
    """Return a customer's record in words."""
    orders = orders_of(customer)
    lines = [f"order {order.number}: {order.thing}, {order.status}" for order in orders]
    return f"Customer {customer}. " + ("; ".join(lines) if lines else "No orders.")
