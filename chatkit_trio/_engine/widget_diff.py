"""What changed between two states of a widget, and how to apply it.

`diff_widget` and `apply_widget_update` are inverse: applying what the first finds, in order, to the
earlier state makes the later one. Both are pure: neither changes the widgets it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from chatkit_trio.types import (
    WidgetComponentUpdated,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
)
from chatkit_trio.widgets import (
    DynamicWidgetComponent,
    DynamicWidgetRoot,
    ListView,
    ListViewItem,
    WidgetComponentBase,
    WidgetRoot,
)

__all__ = ["WidgetUpdate", "apply_widget_update", "diff_widget"]

WidgetUpdate: TypeAlias = WidgetStreamingTextValueDelta | WidgetRootUpdated | WidgetComponentUpdated
"""An update of a widget while it streams."""

_TEXT_TYPES = frozenset({"Markdown", "Text"})
_IDENTITY = frozenset({"type", "id", "key"})


def diff_widget(
    before: WidgetRoot, after: WidgetRoot, *, component_updates: bool = False
) -> list[WidgetUpdate]:
    """Return the updates that turn one state of a widget into the next.

    Text appended to a `Text` or `Markdown` that has an id becomes a delta. Any other change
    replaces the whole widget; with `component_updates`, for clients that can take them, only the
    deepest component round it that has an id, if there is one. An id that occurs twice names
    nothing, and a `key` never does.
    """
    updates = _diff(before, after, _names(before) & _names(after))
    if updates is None or (not component_updates and any(map(_is_of_component, updates))):
        return [WidgetRootUpdated(widget=after)]
    return updates


def _is_of_component(update: WidgetUpdate) -> bool:
    return isinstance(update, WidgetComponentUpdated)


def apply_widget_update(root: WidgetRoot, update: WidgetUpdate) -> WidgetRoot:
    """Return the widget after an update. What didn't change is shared with the given one.

    Raises `LookupError` if the update is for a component that isn't there, or for the text of one
    that has none.
    """
    if isinstance(update, WidgetRootUpdated):
        return update.widget
    if isinstance(update, WidgetComponentUpdated):
        return _change(root, update.component_id, lambda _: update.component)
    return _change(root, update.component_id, lambda text: _append(text, update.delta))


def _names(root: WidgetComponentBase) -> set[str]:
    """Return the ids that name exactly one component, and not the root."""
    counts = Counter(component.id for component in _walk(root) if component.id)
    return {name for name, count in counts.items() if count == 1 and name != root.id}


def _walk(component: WidgetComponentBase) -> Iterator[WidgetComponentBase]:
    yield component
    for child in _children(component):
        yield from _walk(child)


def _children(component: WidgetComponentBase) -> list[WidgetComponentBase]:
    children = getattr(component, "children", None)
    entries = children if isinstance(children, list) else [children]
    return [entry for entry in entries if isinstance(entry, WidgetComponentBase)]


def _props(component: WidgetComponentBase) -> dict[str, Any]:
    """Return what the component is apart from its children, of which only the shape counts.

    Fields and unknown props alike, so that a named class and a dynamic one compare as equal.
    """
    props = {**vars(component), **(component.model_extra or {})}
    if "children" in props:
        props["children"] = _shape(props["children"])
    return {
        name: value for name, value in props.items() if value is not None and name not in _IDENTITY
    }


def _shape(children: Any) -> Any:
    if isinstance(children, list):
        return [_shape(child) for child in children]
    return WidgetComponentBase if isinstance(children, WidgetComponentBase) else children


def _diff(
    before: WidgetComponentBase, after: WidgetComponentBase, names: set[str]
) -> list[WidgetUpdate] | None:
    """Return the updates, or None if something further out has to be replaced."""
    if (before.type, before.id, before.key) != (after.type, after.id, after.key):
        return None
    updates = _diff_inside(before, after, names)
    if updates is None and after.id in names:
        return [_replacement(after.id, after)]
    return updates


def _diff_inside(
    before: WidgetComponentBase, after: WidgetComponentBase, names: set[str]
) -> list[WidgetUpdate] | None:
    """Return updates that don't replace this component, or None if there are none that do."""
    updates: list[WidgetUpdate] = []
    if (props := _props(after)) != (props_before := _props(before)):
        delta = _appended(props_before, props) if after.type in _TEXT_TYPES else None
        if delta is None or after.id not in names:
            return None
        done = not props.get("streaming")
        updates.append(WidgetStreamingTextValueDelta(component_id=after.id, delta=delta, done=done))
    for child_before, child in zip(_children(before), _children(after), strict=True):
        inner = _diff(child_before, child, names)
        if inner is None:
            return None
        updates += inner
    return updates


def _appended(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Return the text appended to `value`, or None if that isn't the only change."""
    text_before, text = before.get("value"), after.get("value")
    if not isinstance(text_before, str) or not isinstance(text, str):
        return None
    if {**before, "value": text} != after or not text.startswith(text_before):
        return None
    return text[len(text_before) :]


def _replacement(component_id: str, component: Any) -> WidgetComponentUpdated:
    return WidgetComponentUpdated(component_id=component_id, component=component)


_Change = Callable[[WidgetComponentBase], WidgetComponentBase]


def _change(root: WidgetRoot, component_id: str, change: _Change) -> WidgetRoot:
    if root.id == component_id:
        return DynamicWidgetRoot.model_validate(change(root).model_dump())
    changed: WidgetRoot | None = _change_inside(root, component_id, change)
    if changed is None:
        raise LookupError(f"the widget has no component with the id {component_id!r}")
    return changed


def _change_inside(parent: Any, component_id: str, change: _Change) -> Any:
    """Return a copy of the parent with that component changed, or None if it isn't inside."""
    for child in _children(parent):
        changed = (
            change(child)
            if child.id == component_id
            else _change_inside(child, component_id, change)
        )
        if changed is not None:
            return _with_child(parent, child, changed)
    return None


def _with_child(parent: Any, old: WidgetComponentBase, new: WidgetComponentBase) -> Any:
    """Return a copy of the parent with another child, in a class that may have it."""
    if isinstance(parent, DynamicWidgetComponent) and not isinstance(new, DynamicWidgetComponent):
        new = DynamicWidgetComponent.model_validate(new.model_dump())
    if not isinstance(parent.children, list):
        return parent.model_copy(update={"children": new})
    children = [new if child is old else child for child in parent.children]
    if isinstance(parent, ListView) and not isinstance(new, ListViewItem):
        dumped = [child.model_dump() for child in children]
        return DynamicWidgetRoot.model_validate({**parent.model_dump(), "children": dumped})
    return parent.model_copy(update={"children": children})


def _append(component: WidgetComponentBase, delta: str) -> WidgetComponentBase:
    value = getattr(component, "value", None)
    if not isinstance(value, str):
        raise LookupError(f"component {component.id!r} has no text to append to")
    return component.model_copy(update={"value": value + delta})
