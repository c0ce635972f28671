"""The special tokens and the chat form that every corpus, model and prompt of the zoo shares."""

from typing import Final

DOCUMENT_START: Final = "<|endoftext|>"
ANSWER_END: Final = "<|end|>"
PADDING: Final = "<|pad|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"

# The order is the token id: document start is 0, answer end is 1, and so on.
SPECIAL_TOKENS: Final = (DOCUMENT_START, ANSWER_END, PADDING, USER, ASSISTANT)
DOCUMENT_START_ID: Final = 0
ANSWER_END_ID: Final = 1
PADDING_ID: Final = 2

VOCABULARY_SIZE: Final = 2048
CONTEXT_TOKENS: Final = 1024

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>\n{{ message['content'] }}<|end|>\n"
    "{% else %}"
    "<|user|>\n{{ message['content'] }}\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
