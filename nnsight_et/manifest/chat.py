"""`chat`, of a model or a task: whether prompts are turns of a chat, and by which template."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from nnsight_et.core.errors import ManifestError


def _check(found: Any) -> Any:
    if found is None or isinstance(found, bool) or (isinstance(found, str) and found):
        return found
    text = "found {found}; accepted: true, false, a template's name, or a file with one"
    raise PydanticCustomError("chat", text, {"found": ascii(found)[:60]})


Chat = Annotated[bool | str | None, BeforeValidator(_check)]


def chat_identity(chat: bool | str | None) -> dict[str, Any]:
    """What is digested of `chat`, if it is there: of a template that is given the digest of its text."""
    if not chat:
        return {}
    given = isinstance(chat, str) and "{" in chat
    return {"chat": blake2b(str(chat).encode(), digest_size=10).hexdigest() if given else chat}


def read_chat(chat: bool | str | None, folder: Path) -> bool | str | None:
    """What `chat` says, beside a manifest in `folder`: of a file the template in it; ManifestError if it has none."""
    if not isinstance(chat, str) or "{" in chat:  # which is a template itself
        return chat or None
    path = folder / chat
    try:
        if not path.is_file():
            return chat
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"chat: {path} cannot be read ({error}); accepted: a template in Jinja, in UTF-8") from None
    if "{" not in text:
        raise ManifestError(f"chat: {path} has no template; accepted: one in Jinja, such as a chat_template.jinja")
    return text
