"""A tool made of a typed async function: its schema comes from the types, its description from the docstring."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from odysseus.tools import Caller, Tool, ToolError

__all__ = ["tool_of"]


def tool_of(function: Callable[..., Awaitable[str]], *, needs_approval: bool = False) -> Tool:
    """Return the tool that calls *function*, under its name.

    A parameter of type `Caller` is filled in here and not shown to the model. `Annotated[.., Field(description=..)]`
    describes and limits an argument.
    """
    hints = get_type_hints(function, include_extras=True)
    caller_name = next((name for name, hint in hints.items() if hint is Caller), None)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name != caller_name
    }
    model: type[BaseModel] = create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)

    async def call(arguments: Mapping[str, Any], caller: Caller) -> str:
        try:
            checked = model.model_validate(arguments)
        except ValidationError as error:
            raise ToolError(_problems(error)) from error
        values = {name: getattr(checked, name) for name in fields}
        return await function(**values, **({caller_name: caller} if caller_name else {}))

    return Tool(
        name=function.__name__,
        description=inspect.getdoc(function) or "",
        parameters=_schema(model),
        source="built-in",
        needs_approval=needs_approval,
        call=call,
    )


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    schema.pop("title")  # the names are titles enough, and every word of it is paid for at every call
    for described in schema.get("properties", {}).values():
        described.pop("title", None)
    return schema


def _problems(error: ValidationError) -> str:
    problems = (f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors())
    return f"the arguments don't fit: {'; '.join(problems)}"
