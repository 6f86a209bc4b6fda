"""The texts of the scripted assistant, and how it finds the topic of a message."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: the words that lead to it, the thoughts to show, and the answer."""

    words: str
    thoughts: tuple[str, ...]
    answer: str


_GO_ON = re.compile(
    r"^\W*(please\W+|ok(ay)?\W+)?(yes\W+)?(go on|continue|carry on|keep going|resume|yes|more)\b",
    re.IGNORECASE,
)


def wants_more(message: str) -> bool:
    """Say whether a message asks for the rest of the previous answer."""
    return _GO_ON.match(message) is not None


def topic_named(message: str) -> str | None:
    """Return the name of the topic that most words of the message belong to."""
    words = set(re.findall(r"[a-z]+", message.lower()))
    hits = {name: len(words.intersection(topic.words.split())) for name, topic in TOPICS.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] else None


HELLO = """\
Hello! I'm the **demo assistant** of chatkit_trio. I run without a network, so I know only a few \
things, but I tell them slowly enough to be interrupted.

## Things to ask me

- *How does structured concurrency work?*: a longer answer with code
- *Which database should I take?*: an answer with a table
- *How do I bake bread?*: a list you can stop half way
- *Explain binary search*: code, and what it costs
- *What happens to a cancelled answer?*: what this demo is really about
- *Fail, please*: an error, with an offer to try again

## Things to try

1. Press **Stop** in the middle of an answer, then say *go on*.
2. Reload the page while I'm talking: I go on where you see me next.
3. Kill the server with `kill -9` and start it again. What you had read is still there, and I \
know that something cut me short.

Start the server with `OPENAI_API_KEY` set, and a real model answers in my place.
"""

CONCURRENCY = """\
**Structured concurrency** says: a task has to end before the block that started it. That is all, \
and it changes a lot.

## The nursery

In Trio, tasks are started in a *nursery*, and the nursery's block doesn't end before they do:

```python
async def fetch_both(first, second):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, first)
        nursery.start_soon(fetch, second)
    # Here both are done, or one of them failed and the other was cancelled.
```

Three things follow from that:

1. **No task is forgotten.** When a function returns, nothing that it started is still running.
2. **No error is lost.** An exception in a task travels to the block that waits for it.
3. **Cancelling has a meaning.** Cancel a block, and everything in it is cancelled, however deep.

## Where it hurts

Cancellation in Trio is *level-triggered*: once a scope is cancelled, **every** wait in it raises \
`Cancelled`, also the one in your clean-up code. So this loses data:

```python
try:
    await stream_answer()
except trio.Cancelled:
    await store.save(partial)  # raises Cancelled at once; nothing is saved
    raise
```

The way out is a shield with a limit:

```python
with trio.move_on_after(5, shield=True):
    await store.save(partial)
```

| | unstructured | structured |
|---|---|---|
| who waits for a task | whoever remembers | the block that started it |
| an error in it | a line in the log | an exception |
| cancelling it | by hand, one by one | by its scope |
| after `return` | who knows | nothing runs |

That shield, its limit, and making sure that the save happens *exactly once* is most of what the \
server behind this page does.
"""

DATABASE = """\
For a chat like this one, the honest answer is: **the one you already run**. If you run none, take \
SQLite.

## The candidates

| | SQLite | PostgreSQL | in memory |
|---|---|---|---|
| to set up | nothing | a server | nothing |
| survives a restart | yes | yes | no |
| several machines | no | yes | no |
| small writes per second | about 5,000 | about 6,000 | a lot |
| good for | one machine | many machines | tests |

## What matters more than the engine

- **One answer, one transaction.** An answer that was cut short, the note about it and the \
thread's title belong together: store all of it or nothing.
- **Order of insertion.** Two messages can have the same time stamp. Sort by a sequence number.
- **Whose row is it?** Check the owner in the query, not in the code around it.

A table for messages can be as simple as this:

```sql
CREATE TABLE items (
    seq    INTEGER PRIMARY KEY,
    thread INTEGER NOT NULL REFERENCES threads (seq) ON DELETE CASCADE,
    id     TEXT NOT NULL,
    data   TEXT NOT NULL,
    UNIQUE (thread, id)
);
```

With `PRAGMA journal_mode = WAL` readers don't wait for the writer, and `synchronous = NORMAL` \
makes a commit cheap: a killed process loses nothing, a power cut at most the last moments.

## My advice

Begin with SQLite and a small interface in front of it. Move when a second machine is really \
there, and not before.
"""

BREAD = """\
A simple white loaf, about **four hours**, most of which the dough spends on its own.

## You need

| | |
|---|---|
| strong flour | 500 g |
| water, lukewarm | 350 g |
| salt | 10 g |
| dry yeast | 4 g |

## What to do

1. **Mix** flour and water until no dry spots are left. Wait for 30 minutes: the dough gets \
stretchy without any work.
2. **Add** salt and yeast, and knead for about 8 minutes. It should come away from the bowl and \
stick to your finger only a little.
3. **Let it rise** under a damp cloth until it has doubled. In a warm kitchen that takes 90 \
minutes; in a cold one, be patient.
4. **Fold** it four times, from each side to the middle, and shape a ball with a tight skin.
5. **Rest** it for another 45 minutes, seam down, on baking paper.
6. **Heat** the oven to 240 °C with a heavy pot in it. The pot has to be really hot.
7. **Cut** the top, about a centimetre deep, and put the loaf into the pot. Lid on.
8. **Bake** for 25 minutes with the lid, then for 15 to 20 minutes without, until it is as dark as \
you dare.
9. **Cool** it on a grid for an hour. This is the hardest step.

> If the crumb is dense, it was the rise, not the oven. Give it more time before you give it more \
yeast.

Half of the yeast and a night in the fridge at step 3 gives a better taste, and a better morning.
"""

SEARCH = """\
**Binary search** finds a value in a *sorted* list by halving what is left, again and again.

```python
def find(values, wanted):
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low
```

It returns the place of the first value that isn't smaller than the one you look for. Whether it \
*is* the one is left to the caller, and that is what makes it useful: the same function finds the \
place to insert at.

## Why it is right

- **Before** each round, everything to the left of `low` is too small, and everything from `high` \
on is big enough.
- **Each round** makes the gap between them smaller, by at least one.
- **At the end** they have met, so `low` is the border.

## What it costs

| values | steps at most |
|---:|---:|
| 10 | 4 |
| 1,000 | 10 |
| 1,000,000 | 20 |
| 1,000,000,000 | 30 |

## What goes wrong

1. The list isn't sorted, or it is sorted by something else.
2. `high` starts at the last place and not behind it, so the last value is never found.
3. `middle` instead of `middle + 1`, and the loop never ends.

In real code, use the `bisect` module. It has had its bugs found by other people.
"""

CANCELLED = """\
When an answer is cut short, three things should be true. **You keep what you have read**, the \
assistant **knows that it was cut short**, and neither happens twice.

## What can cut an answer short

| what happens | what is stored | what the model is told |
|---|---|---|
| you press Stop | the part you have seen | you stopped it, so don't go on unasked |
| the tab is closed | the part so far, or all of it | you may have lost the connection |
| you send something new | the part so far | answer the new message |
| it takes too long | the part so far | it ran into its limit |
| the server restarts | the part so far | you may still want the rest |
| the server crashes | the part up to half a second ago | you may still want the rest |

## How it is done

1. An answer belongs to the *server*, not to the connection that asked for it. A connection only \
reads along.
2. Every change goes into the store **before** it goes over the wire.
3. When an answer has to end, what isn't stored yet is stored in **one transaction**, shielded \
from the cancellation that caused it, with a time limit.
4. While it streams, a journal in the database notes every half second what there is of it. \
After a crash, the next start finds the journal and finishes the job.

## Try it

- Press **Stop** now, then ask me to *go on*.
- Or reload the page, and watch me continue.
- Or stop the server in the terminal, start it again, and reload.

I read the hidden note in this conversation to find out what happened, just as a real model would.
"""

FAILURE = """\
I'll begin as if nothing were wrong. Somewhere in the middle of this sentence, though, something \
will go badly"""

RECOVERED = """\
That went better. The first attempt failed on purpose: what I had said by then was kept, with a \
note that an error cut it short, and **Try again** replaced it with this answer.
"""

TOPICS: dict[str, Topic] = {
    "hello": Topic(
        "hello hi hey help who demo",
        ("They don't know me yet, so I'll introduce myself.", "A list of things to try is best."),
        HELLO,
    ),
    "concurrency": Topic(
        "trio nursery nurseries structured concurrency async await task tasks python",
        ("What makes a nursery different?", "An example, and then the trap with clean-up code."),
        CONCURRENCY,
    ),
    "database": Topic(
        "database databases sqlite postgres postgresql sql store storage table",
        ("How big will this get?", "A table to compare, then what matters more."),
        DATABASE,
    ),
    "bread": Topic(
        "bake baking bread recipe cook cooking dough loaf flour food",
        ("A recipe they can't get wrong.", "Amounts first, then the steps in order."),
        BREAD,
    ),
    "search": Topic(
        "binary search sort sorted sorting algorithm algorithms code bisect",
        ("The half-open form has the fewest mistakes.", "Code, why it's right, what it costs."),
        SEARCH,
    ),
    "cancelled": Topic(
        "cancel cancelled stop stopped interrupt interrupted partial happens",
        ("This is what the demo is about.", "A table of the ways an answer can end early."),
        CANCELLED,
    ),
    "failure": Topic(
        "fail fails failure error crash break",
        ("They want to see an error.", "I'll begin, and then break."),
        FAILURE,
    ),
}
