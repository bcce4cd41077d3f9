"""Search: what is asked for, the words of texts and their languages, passages to show."""

from .languages import guess_language, text_search_configuration
from .question import Question, parse_question
from .snippets import make_snippet

__all__ = ["Question", "guess_language", "make_snippet", "parse_question", "text_search_configuration"]
