"""Widgets: trees of components that a client draws, and the templates they are built from.

Two families share one base. The *dynamic* classes take any prop; a `WidgetTemplate` builds these.
The *named* classes (`Card`, `Text`, ...) spell out the props this release knows. A template is the
better way to build a widget, but nothing warns of these classes, and a stored widget is read in
them if they fit. Both keep props they don't know, so that a client that reloads gets the widget it
was streamed.

Where a prop may be a number or a string, a number is in spacing units or pixels, and a string is
CSS. Colours are tokens (`secondary`, `red-100`), CSS strings, or one of these for each theme.
"""
# ruff: noqa: N815  (props are named as on the wire)

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    with_config,
)
from typing_extensions import TypedDict, deprecated

from ._model import Model
from ._widget_templates import TemplateFile
from .actions import ActionConfig
from .errors import WidgetTemplateError
from .icons import IconName

# Named classes narrow `type` to a Literal, which a checker refuses for a writable str.
if TYPE_CHECKING:
    _TypeName = Any
else:
    _TypeName = str

_KEEP_UNKNOWN = ConfigDict(extra="allow")

_DEPRECATION = (
    "Named widget classes are deprecated for building widgets; write a .widget file and build it"
    " with WidgetTemplate instead."
)
# Without a warning: the original's own guide builds widgets so, and stored ones are read so. Type
# checkers and JSON schemas tell it.
_named = deprecated(_DEPRECATION, category=None)


# --- Values of props

WidgetIcon = IconName
"""Icons a widget can show."""

RadiusValue = Literal[
    "2xs", "xs", "sm", "md", "lg", "xl", "2xl", "3xl", "4xl", "full", "100%", "none"
]
"""Corner radii."""

TextAlign = Literal["start", "center", "end"]
"""How lines of text are aligned."""

TextSize = Literal["xs", "sm", "md", "lg", "xl"]
"""Sizes of `Text` and `Label`."""

IconSize = Literal["xs", "sm", "md", "lg", "xl", "2xl", "3xl"]
"""Sizes of `Icon`."""

TitleSize = Literal["sm", "md", "lg", "xl", "2xl", "3xl", "4xl", "5xl"]
"""Sizes of `Title`."""

CaptionSize = Literal["sm", "md", "lg"]
"""Sizes of `Caption`."""

Alignment = Literal["start", "center", "end", "baseline", "stretch"]
"""How children are aligned across the axis of their container."""

Justification = Literal["start", "center", "end", "between", "around", "evenly", "stretch"]
"""How children are distributed along the axis of their container."""

ControlVariant = Literal["solid", "soft", "outline", "ghost"]
"""Looks of buttons and inputs."""

ControlSize = Literal["3xs", "2xs", "xs", "sm", "md", "lg", "xl", "2xl", "3xl"]
"""Sizes of buttons and inputs."""

CurveType = Literal[
    "basis",
    "basisClosed",
    "basisOpen",
    "bumpX",
    "bumpY",
    "bump",
    "linear",
    "linearClosed",
    "natural",
    "monotoneX",
    "monotoneY",
    "monotone",
    "step",
    "stepBefore",
    "stepAfter",
]
"""How a line or area is drawn between its points."""

_FontWeight = Literal["normal", "medium", "semibold", "bold"]
_Theme = Literal["light", "dark"]
_Direction = Literal["row", "col"]


@_named
@with_config(_KEEP_UNKNOWN)
class ThemeColor(TypedDict):
    """A colour for each theme."""

    dark: str
    light: str


_Color = str | ThemeColor


@_named
@with_config(_KEEP_UNKNOWN)
class Spacing(TypedDict):
    """Padding or margin by side; `x` and `y` stand for two sides each."""

    top: NotRequired[float | str]
    right: NotRequired[float | str]
    bottom: NotRequired[float | str]
    left: NotRequired[float | str]
    x: NotRequired[float | str]
    y: NotRequired[float | str]


@_named
@with_config(_KEEP_UNKNOWN)
class Border(TypedDict):
    """One border; `size` in pixels."""

    size: int
    color: NotRequired[_Color]
    style: NotRequired[
        Literal["solid", "dashed", "dotted", "double", "groove", "ridge", "inset", "outset"]
    ]


@_named
@with_config(_KEEP_UNKNOWN)
class Borders(TypedDict):
    """Borders by side, each in full or as its width in pixels."""

    top: NotRequired[int | Border]
    right: NotRequired[int | Border]
    bottom: NotRequired[int | Border]
    left: NotRequired[int | Border]
    x: NotRequired[int | Border]
    y: NotRequired[int | Border]


@_named
@with_config(_KEEP_UNKNOWN)
class MinMax(TypedDict):
    """Bounds, both inclusive."""

    min: NotRequired[int]
    max: NotRequired[int]


@_named
@with_config(_KEEP_UNKNOWN)
class EditableProps(TypedDict):
    """How a `Text` is edited in place; `name` is its field in the form."""

    name: str
    autoFocus: NotRequired[bool]
    autoSelect: NotRequired[bool]
    autoComplete: NotRequired[str]
    allowAutofillExtensions: NotRequired[bool]
    pattern: NotRequired[str]
    placeholder: NotRequired[str]
    required: NotRequired[bool]


@_named
@with_config(_KEEP_UNKNOWN)
class WidgetStatusWithFavicon(TypedDict):
    """A header line with the icon of a website; `frame` draws a border round it."""

    text: str
    favicon: NotRequired[str]
    frame: NotRequired[bool]


@_named
@with_config(_KEEP_UNKNOWN)
class WidgetStatusWithIcon(TypedDict):
    """A header line with an icon."""

    text: str
    icon: NotRequired[WidgetIcon]


WidgetStatus = WidgetStatusWithFavicon | WidgetStatusWithIcon
"""The header line of a card or list."""


@_named
@with_config(_KEEP_UNKNOWN)
class CardAction(TypedDict):
    """A button in the footer of a card."""

    label: str
    action: ActionConfig


@_named
@with_config(_KEEP_UNKNOWN)
class SelectOption(TypedDict):
    """A choice of a `Select`."""

    value: str
    label: str
    disabled: NotRequired[bool]
    description: NotRequired[str]


@_named
@with_config(_KEEP_UNKNOWN)
class RadioOption(TypedDict):
    """A choice of a `RadioGroup`."""

    label: str
    value: str
    disabled: NotRequired[bool]


@_named
@with_config(_KEEP_UNKNOWN)
class XAxisConfig(TypedDict):
    """The x axis of a `Chart`; `labels` maps values to the texts that are shown."""

    dataKey: str
    hide: NotRequired[bool]
    labels: NotRequired[dict[str, str]]


# --- Components


class WidgetComponentBase(Model):
    """The base of every component.

    Dumps leave out props that are None, at any depth (except `children`), and always have the
    `type`.
    """

    model_config = ConfigDict(extra="allow", serialize_by_alias=True)

    key: str | None = None
    id: str | None = None
    type: _TypeName = Field(...)

    # No return annotation: it would take the place of the model's own JSON schema.
    @model_serializer(mode="wrap")
    def serialize(self, next_: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        """Dump without props that are None, also if the component is part of another model."""
        dumped = next_(self)
        # Children have been dumped by this method already.
        props = {
            name: value if name == "children" else _without_none(value)
            for name, value in dumped.items()
            if name == "children" or value is not None
        }
        props["type"] = self.type
        return props


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_none(entry)
            for name, entry in value.items()
            if name == "children" or entry is not None
        }
    if isinstance(value, list):
        return [_without_none(entry) for entry in value if entry is not None]
    return value


@_named
class ListViewItem(WidgetComponentBase):
    """A row of a `ListView`."""

    type: Literal["ListViewItem"] = Field(default="ListViewItem", frozen=True)
    children: list[WidgetComponent]
    onClickAction: ActionConfig | None = None
    gap: int | str | None = None
    align: Alignment | None = None


@_named
class ListView(WidgetComponentBase):
    """A list; `limit` rows show before "show more"."""

    type: Literal["ListView"] = Field(default="ListView", frozen=True)
    children: list[ListViewItem]
    limit: int | Literal["auto"] | None = None
    status: WidgetStatus | None = None
    theme: _Theme | None = None


@_named
class Card(WidgetComponentBase):
    """A card; with `asForm` its fields are the payload of `confirm` and `cancel`.

    `collapsed` folds the card when the main action is done.
    """

    type: Literal["Card"] = Field(default="Card", frozen=True)
    asForm: bool | None = None
    children: list[WidgetComponent]
    background: _Color | None = None
    size: Literal["sm", "md", "lg", "full"] | None = None
    padding: float | str | Spacing | None = None
    status: WidgetStatus | None = None
    collapsed: bool | None = None
    confirm: CardAction | None = None
    cancel: CardAction | None = None
    theme: _Theme | None = None


@_named
class Markdown(WidgetComponentBase):
    """Markdown; `streaming` while text is still appended."""

    type: Literal["Markdown"] = Field(default="Markdown", frozen=True)
    value: str
    streaming: bool | None = None


@_named
class Text(WidgetComponentBase):
    """Plain text; `streaming` while text is still appended."""

    type: Literal["Text"] = Field(default="Text", frozen=True)
    value: str
    streaming: bool | None = None
    italic: bool | None = None
    lineThrough: bool | None = None
    color: _Color | None = None
    weight: _FontWeight | None = None
    width: float | str | None = None
    size: TextSize | None = None
    textAlign: TextAlign | None = None
    truncate: bool | None = None
    minLines: int | None = None
    maxLines: int | None = None
    editable: Literal[False] | EditableProps | None = None


@_named
class Title(WidgetComponentBase):
    """A headline."""

    type: Literal["Title"] = Field(default="Title", frozen=True)
    value: str
    color: _Color | None = None
    weight: _FontWeight | None = None
    size: TitleSize | None = None
    textAlign: TextAlign | None = None
    truncate: bool | None = None
    maxLines: int | None = None


@_named
class Caption(WidgetComponentBase):
    """Small print."""

    type: Literal["Caption"] = Field(default="Caption", frozen=True)
    value: str
    color: _Color | None = None
    weight: _FontWeight | None = None
    size: CaptionSize | None = None
    textAlign: TextAlign | None = None
    truncate: bool | None = None
    maxLines: int | None = None


@_named
class Badge(WidgetComponentBase):
    """A small label, such as a status."""

    type: Literal["Badge"] = Field(default="Badge", frozen=True)
    label: str
    color: Literal["secondary", "success", "danger", "warning", "info", "discovery"] | None = None
    variant: Literal["solid", "soft", "outline"] | None = None
    size: Literal["sm", "md", "lg"] | None = None
    pill: bool | None = None


@_named
class BoxBase(Model):
    """Props of the containers; `size` props set width and height at once."""

    children: list[WidgetComponent] | None = None
    align: Alignment | None = None
    justify: Justification | None = None
    wrap: Literal["nowrap", "wrap", "wrap-reverse"] | None = None
    flex: int | str | None = None
    gap: int | str | None = None
    height: float | str | None = None
    width: float | str | None = None
    size: float | str | None = None
    minHeight: int | str | None = None
    minWidth: int | str | None = None
    minSize: int | str | None = None
    maxHeight: int | str | None = None
    maxWidth: int | str | None = None
    maxSize: int | str | None = None
    padding: float | str | Spacing | None = None
    margin: float | str | Spacing | None = None
    border: int | Border | Borders | None = None
    radius: RadiusValue | None = None
    background: _Color | None = None
    aspectRatio: float | str | None = None


@_named
class Box(WidgetComponentBase, BoxBase):
    """A container that runs in either direction."""

    type: Literal["Box"] = Field(default="Box", frozen=True)
    direction: _Direction | None = None


@_named
class Row(WidgetComponentBase, BoxBase):
    """A container that runs across."""

    type: Literal["Row"] = Field(default="Row", frozen=True)


@_named
class Col(WidgetComponentBase, BoxBase):
    """A container that runs down."""

    type: Literal["Col"] = Field(default="Col", frozen=True)


@_named
class Form(WidgetComponentBase, BoxBase):
    """A form; its fields are the payload of `onSubmitAction`."""

    type: Literal["Form"] = Field(default="Form", frozen=True)
    onSubmitAction: ActionConfig | None = None
    direction: _Direction | None = None


@_named
class Divider(WidgetComponentBase):
    """A line between sections; `flush` runs it to the edge of its container."""

    type: Literal["Divider"] = Field(default="Divider", frozen=True)
    color: _Color | None = None
    size: int | str | None = None
    spacing: int | str | None = None
    flush: bool | None = None


@_named
class Icon(WidgetComponentBase):
    """An icon."""

    type: Literal["Icon"] = Field(default="Icon", frozen=True)
    name: WidgetIcon
    color: _Color | None = None
    size: IconSize | None = None


@_named
class Image(WidgetComponentBase):
    """An image; `fit` and `position` say which part is shown if it doesn't fit its box."""

    type: Literal["Image"] = Field(default="Image", frozen=True)
    src: str
    alt: str | None = None
    fit: Literal["cover", "contain", "fill", "scale-down", "none"] | None = None
    position: (
        Literal[
            "top left",
            "top",
            "top right",
            "left",
            "center",
            "right",
            "bottom left",
            "bottom",
            "bottom right",
        ]
        | None
    ) = None
    radius: RadiusValue | None = None
    frame: bool | None = None
    flush: bool | None = None
    height: int | str | None = None
    width: int | str | None = None
    size: int | str | None = None
    minHeight: int | str | None = None
    minWidth: int | str | None = None
    minSize: int | str | None = None
    maxHeight: int | str | None = None
    maxWidth: int | str | None = None
    maxSize: int | str | None = None
    margin: int | str | Spacing | None = None
    background: _Color | None = None
    aspectRatio: float | str | None = None
    flex: int | str | None = None


@_named
class Button(WidgetComponentBase):
    """A button; `submit` makes it send its form, `uniform` makes it square."""

    type: Literal["Button"] = Field(default="Button", frozen=True)
    submit: bool | None = None
    label: str | None = None
    onClickAction: ActionConfig | None = None
    iconStart: WidgetIcon | None = None
    iconEnd: WidgetIcon | None = None
    style: Literal["primary", "secondary"] | None = None
    iconSize: Literal["sm", "md", "lg", "xl", "2xl"] | None = None
    color: (
        Literal[
            "primary",
            "secondary",
            "info",
            "discovery",
            "success",
            "caution",
            "warning",
            "danger",
        ]
        | None
    ) = None
    variant: ControlVariant | None = None
    size: ControlSize | None = None
    pill: bool | None = None
    uniform: bool | None = None
    block: bool | None = None
    disabled: bool | None = None


@_named
class Spacer(WidgetComponentBase):
    """Empty space that grows."""

    type: Literal["Spacer"] = Field(default="Spacer", frozen=True)
    minSize: int | str | None = None


@_named
class Select(WidgetComponentBase):
    """A drop-down list. Unless `searchable` is set, clients offer a search from 16 options on."""

    type: Literal["Select"] = Field(default="Select", frozen=True)
    name: str
    options: list[SelectOption]
    onChangeAction: ActionConfig | None = None
    placeholder: str | None = None
    defaultValue: str | None = None
    variant: ControlVariant | None = None
    size: ControlSize | None = None
    pill: bool | None = None
    block: bool | None = None
    clearable: bool | None = None
    disabled: bool | None = None
    searchable: bool | None = None


@_named
class DatePicker(WidgetComponentBase):
    """A date field; `min` and `max` are inclusive, `side` and `align` place the calendar."""

    type: Literal["DatePicker"] = Field(default="DatePicker", frozen=True)
    name: str
    onChangeAction: ActionConfig | None = None
    placeholder: str | None = None
    defaultValue: datetime | None = None
    min: datetime | None = None
    max: datetime | None = None
    variant: ControlVariant | None = None
    size: ControlSize | None = None
    side: Literal["top", "bottom", "left", "right"] | None = None
    align: Literal["start", "center", "end"] | None = None
    pill: bool | None = None
    block: bool | None = None
    clearable: bool | None = None
    disabled: bool | None = None


@_named
class Checkbox(WidgetComponentBase):
    """A checkbox."""

    type: Literal["Checkbox"] = Field(default="Checkbox", frozen=True)
    name: str
    label: str | None = None
    defaultChecked: bool | None = None
    onChangeAction: ActionConfig | None = None
    disabled: bool | None = None
    required: bool | None = None


@_named
class Input(WidgetComponentBase):
    """A line of text to fill in; `gutterSize` overrides the gutter of `size`."""

    type: Literal["Input"] = Field(default="Input", frozen=True)
    name: str
    inputType: Literal["number", "email", "text", "password", "tel", "url"] | None = None
    defaultValue: str | None = None
    required: bool | None = None
    pattern: str | None = None
    placeholder: str | None = None
    allowAutofillExtensions: bool | None = None
    autoSelect: bool | None = None
    autoFocus: bool | None = None
    disabled: bool | None = None
    variant: Literal["soft", "outline"] | None = None
    size: ControlSize | None = None
    gutterSize: Literal["2xs", "xs", "sm", "md", "lg", "xl"] | None = None
    pill: bool | None = None


@_named
class Label(WidgetComponentBase):
    """The label of the field called `fieldName`."""

    type: Literal["Label"] = Field(default="Label", frozen=True)
    value: str
    fieldName: str
    size: TextSize | None = None
    weight: _FontWeight | None = None
    textAlign: TextAlign | None = None
    color: _Color | None = None


@_named
class RadioGroup(WidgetComponentBase):
    """A choice of one; `ariaLabel` defaults to the name."""

    type: Literal["RadioGroup"] = Field(default="RadioGroup", frozen=True)
    name: str
    options: list[RadioOption] | None = None
    ariaLabel: str | None = None
    onChangeAction: ActionConfig | None = None
    defaultValue: str | None = None
    direction: _Direction | None = None
    disabled: bool | None = None
    required: bool | None = None


@_named
class Textarea(WidgetComponentBase):
    """Lines of text to fill in; `autoResize` grows it up to `maxRows`."""

    type: Literal["Textarea"] = Field(default="Textarea", frozen=True)
    name: str
    defaultValue: str | None = None
    required: bool | None = None
    pattern: str | None = None
    placeholder: str | None = None
    autoSelect: bool | None = None
    autoFocus: bool | None = None
    disabled: bool | None = None
    variant: Literal["soft", "outline"] | None = None
    size: ControlSize | None = None
    gutterSize: Literal["2xs", "xs", "sm", "md", "lg", "xl"] | None = None
    rows: int | None = None
    autoResize: bool | None = None
    maxRows: int | None = None
    allowAutofillExtensions: bool | None = None


@_named
class Transition(WidgetComponentBase):
    """Animates changes of its one child."""

    type: Literal["Transition"] = Field(default="Transition", frozen=True)
    children: WidgetComponent | None


@_named
class BarSeries(Model):
    """Bars of a `Chart`, from the field `dataKey` of each row; equal `stack`s are stacked."""

    model_config = _KEEP_UNKNOWN

    type: Literal["bar"] = Field(default="bar", frozen=True)
    label: str | None
    dataKey: str
    stack: str | None = None
    color: _Color | None = None


@_named
class AreaSeries(Model):
    """An area of a `Chart`, from the field `dataKey` of each row; equal `stack`s are stacked."""

    model_config = _KEEP_UNKNOWN

    type: Literal["area"] = Field(default="area", frozen=True)
    label: str | None
    dataKey: str
    stack: str | None = None
    color: _Color | None = None
    curveType: CurveType | None = None


@_named
class LineSeries(Model):
    """A line of a `Chart`, from the field `dataKey` of each row."""

    model_config = _KEEP_UNKNOWN

    type: Literal["line"] = Field(default="line", frozen=True)
    label: str | None
    dataKey: str
    color: _Color | None = None
    curveType: CurveType | None = None


Series = Annotated[BarSeries | AreaSeries | LineSeries, Field(discriminator="type")]
"""What a `Chart` can draw."""


@_named
class Chart(WidgetComponentBase):
    """A chart of the rows of `data`; `xAxis` names the field along the x axis."""

    type: Literal["Chart"] = Field(default="Chart", frozen=True)
    data: list[dict[str, str | int | float]]
    series: list[Series]
    xAxis: str | XAxisConfig
    showYAxis: bool | None = None
    showLegend: bool | None = None
    showTooltip: bool | None = None
    barGap: int | None = None
    barCategoryGap: int | None = None
    flex: int | str | None = None
    height: int | str | None = None
    width: int | str | None = None
    size: int | str | None = None
    minHeight: int | str | None = None
    minWidth: int | str | None = None
    minSize: int | str | None = None
    maxHeight: int | str | None = None
    maxWidth: int | str | None = None
    maxSize: int | str | None = None
    aspectRatio: float | str | None = None


class DynamicWidgetComponent(WidgetComponentBase):
    """A component with any props; only the template and the client know what they mean."""

    type: str = Field(...)
    children: DynamicWidgetComponent | list[DynamicWidgetComponent] | None = None


class BasicRoot(DynamicWidgetComponent):
    """A root without a frame of its own."""

    type: Literal["Basic"] = Field(default="Basic", frozen=True)  # pyright: ignore[reportIncompatibleVariableOverride]


class DynamicWidgetRoot(DynamicWidgetComponent):
    """A root with any props."""

    type: Literal["Card", "ListView", "Basic"]  # pyright: ignore[reportIncompatibleVariableOverride]


StrictWidgetComponent = Annotated[
    Text
    | Title
    | Caption
    | Chart
    | Badge
    | Markdown
    | Box
    | Row
    | Col
    | Divider
    | Icon
    | Image
    | ListViewItem
    | Button
    | Checkbox
    | Spacer
    | Select
    | DatePicker
    | Form
    | Input
    | Label
    | RadioGroup
    | Textarea
    | Transition,
    Field(discriminator="type"),
]
"""The components this release knows by name."""

StrictWidgetRoot = Annotated[Card | ListView | BasicRoot, Field(discriminator="type")]
"""The roots this release knows by name."""

WidgetComponent = StrictWidgetComponent | DynamicWidgetComponent
"""Any component."""

WidgetRoot = StrictWidgetRoot | DynamicWidgetRoot
"""Any root."""


# --- Templates

_TRoot = TypeVar("_TRoot", bound=DynamicWidgetComponent)


class WidgetTemplate(TemplateFile):
    """A widget with blanks, as the widget studio exports it to a `.widget` file.

        TICKET = WidgetTemplate.from_file("ticket.widget")
        widget = TICKET.build({"seat": "4A"})

    The file is JSON with `version` ("1.0"), `name`, `template` (Jinja that writes JSON) and
    `jsonSchema`, which says what the data should be. Values are escaped: none can change the
    structure of the widget. `definition["template"]` may be a compiled `jinja2.Template` instead;
    then its environment decides about escaping.

    Data that the schema refuses is logged as a warning, once for each part of the schema, and the
    widget is built all the same. With `strict=True` it is an error.

    Raises `WidgetTemplateError` for a definition that can't be used.
    """

    def build(
        self, data: Mapping[str, Any] | BaseModel | None = None, *, strict: bool | None = None
    ) -> DynamicWidgetRoot:
        """Return the widget this template makes from the data. Not a checkpoint.

        `strict` is for this widget; by default it is as the template was made. Raises
        `WidgetTemplateError`, naming the template and the place, if a variable is missing or the
        result is no widget; if it is strict, also if the data isn't what the schema asks for.
        """
        return self._build(DynamicWidgetRoot, data, strict)

    @deprecated("WidgetTemplate.build_basic() is deprecated; use build().")
    def build_basic(self, data: Mapping[str, Any] | BaseModel | None = None) -> BasicRoot:
        """Return the widget as a `BasicRoot`, which it has to be. Raises as `build`."""
        return self._build(BasicRoot, data, None)

    def _build(
        self,
        root_class: type[_TRoot],
        data: Mapping[str, Any] | BaseModel | None,
        strict: bool | None,
    ) -> _TRoot:
        try:
            return root_class.model_validate(self._json(data, strict))
        except ValidationError as error:
            raise WidgetTemplateError(
                f"widget template {self.name!r} makes no widget: at {_first_flaw(error)}"
            ) from error


def _first_flaw(error: ValidationError) -> str:
    # `children` may be one component or a list, and pydantic reports the flaws of both attempts.
    # The author meant the attempt that got further.
    flaw = max(error.errors(include_url=False), key=lambda flaw: len(flaw["loc"]))
    steps = [str(step) for step in flaw["loc"]]
    place = ".".join(step for step in steps if DynamicWidgetComponent.__name__ not in step)
    return f"{place or 'the root'}: {flaw['msg']}"
