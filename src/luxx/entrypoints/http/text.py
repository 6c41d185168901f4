"""What the API says to people, in Chinese and in English. `error.code` never changes with the language."""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final

from luxx.application import api_keys, conversations
from luxx.domain import fields
from luxx.domain.errors import Fault, LuxxError, ToolError
from luxx.extras import needs

with needs("luxx.entrypoints.http.text", "the extra `client`"):
    from luxx.entrypoints.http import account_forms


class Language(StrEnum):
    ZH = "zh"
    EN = "en"


SUCCESS: Final[Mapping[str, Mapping[Language, str]]] = {
    "registered": {Language.ZH: "注册成功", Language.EN: "Registered"},
    "logged_in": {Language.ZH: "登录成功", Language.EN: "Logged in"},
    "logged_out": {Language.ZH: "登出成功", Language.EN: "Logged out"},
    "password_changed": {Language.ZH: "密码修改成功", Language.EN: "Password changed"},
    "session_ended": {Language.ZH: "该登录已注销", Language.EN: "Session ended"},
    "key_created": {Language.ZH: "API 密钥创建成功", Language.EN: "API key created"},
    "key_deleted": {Language.ZH: "API 密钥删除成功", Language.EN: "API key deleted"},
    "conversation_created": {Language.ZH: "会话创建成功", Language.EN: "Conversation created"},
    "conversation_updated": {Language.ZH: "会话更新成功", Language.EN: "Conversation updated"},
    "conversation_deleted": {Language.ZH: "会话删除成功", Language.EN: "Conversation deleted"},
    "message_deleted": {Language.ZH: "消息删除成功", Language.EN: "Message deleted"},
}

ERRORS: Final[Mapping[str, str]] = {
    "invalid_json": "请求体不是有效的 JSON",
    "validation_failed": "请求参数有误",
    "unauthenticated": "未登录或令牌无效",
    "token_expired": "令牌已过期，请重新登录",
    "token_revoked": "令牌已失效，请重新登录",
    "invalid_credentials": "用户名或密码错误",
    "account_disabled": "账号已被禁用",
    "forbidden": "没有权限执行此操作",
    "username_taken": "用户名已被使用",
    "email_taken": "邮箱已被使用",
    "conversation_not_found": "会话不存在",
    "message_not_found": "消息不存在",
    "tool_not_found": "工具不存在",
    "not_found": "请求的资源不存在",
    "method_not_allowed": "不支持该请求方法",
    "payload_too_large": "请求体过大",
    "uri_too_long": "请求地址过长",
    "unsupported_media_type": "仅支持 application/json 请求体",
    "generation_in_progress": "该会话正在生成回复，请等待完成或先取消",
    "idempotency_conflict": "该 Idempotency-Key 已用于另一条消息",
    "rate_limited": "请求过于频繁，请稍后再试",
    "tool_failed": "工具执行失败",
    "tool_timeout": "工具执行超时",
    "model_unavailable": "模型服务不可用，请稍后再试",
    "model_timeout": "模型响应超时，请稍后再试",
    "model_rate_limited": "模型服务繁忙，请稍后再试",
    "model_rejected": "模型服务拒绝了请求，请检查模型名称、密钥和参数",
    "interrupted": "回复被中断",
    "overloaded": "服务暂时无法处理更多请求，请稍后再试",
    "internal_error": "服务内部错误",
}
"""Every error code, and what it says in Chinese; in English the error speaks for itself."""

ANSWER_DELETED: Final = "The answer to this message was deleted: to ask again, send it with a new Idempotency-Key."

COMPRESSED: Final = "The request body must not be compressed: send it without Content-Encoding."

TEXTS_ZH: Final[Mapping[str, str]] = {
    COMPRESSED: "不支持压缩的请求体，请去掉 Content-Encoding 后重试",
    ANSWER_DELETED: "这条消息的回复已被删除，如需重新提问，请使用新的 Idempotency-Key",
}
"""Errors that say more than their code, in Chinese too."""

RULES_ZH: Final[Mapping[str, str]] = {
    "required": "不能为空",
    "unknown": "是未知字段",
    "duplicate": "重复出现",
    "type": "必须是{expected}",
    "too_short": "至少需要 {limit} 个字符",
    "too_long": "最多允许 {limit} 个字符",
    "too_few": "至少需要 {limit} 项",
    "too_many": "最多允许 {limit} 项",
    "too_small": "不能小于 {limit}",
    "too_large": "不能大于 {limit}",
    "choice": "必须是以下之一：{choices}",
    "characters": "只能包含字母、数字和 _ - .",
    "nul": "不能包含字符 U+0000",
    "email": "不是有效的邮箱地址",
    "common": "过于常见，请换一个密码",
    "invalid": "无效：{reason}",
}

REASONS_ZH: Final[Mapping[str, str]] = {
    api_keys.FULL: "密钥数量已达上限，请先删除一个",
    api_keys.PAST: "必须是将来的时间",
    account_forms.NO_TIME: "必须是带时区的 RFC 3339 时间",
    api_keys.ONE_OF_TWO: "expires_at 与 expires_in_days 只能填写一个",
    conversations.NO_TOOLS: "没有可用的工具",
    "1 to 255 characters": "长度应为 1 到 255 个字符",
    "1 to 255 characters of ASCII": "应为 1 到 255 个 ASCII 字符",
    "it must be the id of an event": "必须是事件的 id",
    "take it from next_cursor of a page": "请使用列表返回的 next_cursor",
}

TYPES_ZH: Final[Mapping[str, str]] = {
    fields.STRING: "字符串",
    fields.INTEGER: "整数",
    fields.NUMBER: "数字",
    fields.FINITE: "有限的数字",
    fields.BOOLEAN: "布尔值",
    fields.NULL: "空值",
    fields.ARRAY: "数组",
    fields.OBJECT: "对象",
}

_ALTERNATIVES: Final = re.compile("(?<!true) or ")
"""Between types: a boolean is called "true or false"."""

_PREFERENCE: Final = re.compile(
    r"\s*(?P<tag>[A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=(?P<q>[01](?:\.\d{0,3})?))?\s*"
)


def language_of(accept_language: str) -> Language:
    """Read an Accept-Language header (RFC 9110, 12.5.4): English where it is preferred, else Chinese."""
    return _preferred(accept_language[:500])


@lru_cache(256)
def _preferred(accept_language: str) -> Language:
    best: dict[str, float] = {}
    for item in accept_language.split(","):
        if match := _PREFERENCE.fullmatch(item):
            tag = match["tag"].lower()
            best[tag] = max(best.get(tag, 0.0), float(match["q"] or 1))
    everything = best.get("*", 0.0)
    return Language.EN if best.get("en", 0.0) > best.get("zh", everything) else Language.ZH


def success(key: str, language: Language) -> str:
    return SUCCESS[key][language]


def fault_text(fault: Fault, language: Language) -> str:
    if language is Language.EN:
        return str(fault)
    parameters = dict(fault.parameters)
    if fault.rule == "type":
        names = _ALTERNATIVES.split(str(parameters["expected"]))
        parameters["expected"] = "或".join(TYPES_ZH.get(name, name) for name in names)
    if fault.rule == "invalid":
        parameters["reason"] = REASONS_ZH.get(str(parameters["reason"]), parameters["reason"])
    return RULES_ZH[fault.rule].format_map(parameters)


def error_text(error: LuxxError, language: Language) -> str:
    """Tell an error; what a tool says of its own failure is kept in every language."""
    if language is Language.EN or error.code not in ERRORS:
        return str(error)
    if isinstance(error, ToolError):
        return f"{ERRORS[error.code]}：{error}"
    return TEXTS_ZH.get(str(error), ERRORS[error.code])


def problem_text(code: str, message: str, language: Language) -> str:
    """Tell a stored problem; it was stored in English."""
    return message if language is Language.EN else ERRORS.get(code, message)
