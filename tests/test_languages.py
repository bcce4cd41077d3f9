"""Languages: names of them, and texts in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import database as db
from database import Settings
from database.search import guess_language, text_search_configuration

from .sentences import CHINESE, JAPANESE, KOREAN, THAI


@pytest.mark.parametrize(
    ("language", "configuration"),
    [("de", "german"), ("German", "german"), ("pt-BR", "portuguese"), ("zh_Hant", "simple"), ("simple", "simple"),
     ("ja", "simple"), ("", None), ("klingon", None), ("a b", None), ("'", None)],
)  # fmt: skip
def test_languages(language: str, configuration: str | None) -> None:
    """Names and ISO codes are understood, in any case and with a region; anything else is not."""
    assert text_search_configuration(language) == configuration


async def test_every_configuration_that_we_name_is_there(database: Settings) -> None:
    """A document can be stored in each language that is accepted, on this server."""
    from database.search.languages import _NAMES

    for name in sorted(_NAMES):
        await db.upsert_document(name, name, "text", language=name)
    assert await db.get_document_count() == len(_NAMES)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("english", "The pool keeps a few connections open, so that callers do not have to wait for a new one."),
        ("english", "how do I connect to a database"),
        ("german", "Der Pool hält einige Verbindungen offen, damit niemand auf eine neue warten muss."),
        ("german", "Wie verbinde ich mich mit einer Datenbank?"),
        ("french", "Le pool garde quelques connexions ouvertes, pour que personne ne doive attendre."),
        ("spanish", "El grupo mantiene abiertas algunas conexiones para que nadie tenga que esperar una nueva."),
        ("portuguese", "O pool mantém algumas conexões abertas, para que ninguém tenha de esperar por uma nova."),
        ("italian", "Il pool tiene aperte alcune connessioni, in modo che nessuno debba aspettarne una nuova."),
        ("dutch", "De pool houdt een paar verbindingen open, zodat niemand op een nieuwe hoeft te wachten."),
        (
            "swedish",
            "Poolen håller några anslutningar öppna, så att ingen behöver vänta på en ny. Det är bra för alla.",
        ),
        ("danish", "Puljen holder nogle forbindelser åbne, så at ingen skal vente på en ny, efter at den blev lukket."),
        (
            "norwegian",
            "Gruppen holder noen forbindelser åpne, slik at man ikke må vente på en ny etter at den ble lukket.",
        ),
        (
            "finnish",
            "Pooli pitää muutaman yhteyden auki, jotta kukaan ei joudu odottamaan, ja se on hyvä, kun niitä ei ole.",
        ),
        ("hungarian", "A készlet néhány kapcsolatot nyitva tart, hogy senkinek ne kelljen újra várnia, és ez jó."),
        ("romanian", "Grupul ține deschise câteva conexiuni, pentru ca nimeni să nu aștepte una nouă."),
        ("turkish", "Havuz birkaç bağlantıyı açık tutar ve bu yüzden hiç kimse yeni bir bağlantı için beklemez."),
        (
            "catalan",
            "El grup manté obertes algunes connexions perquè ningú no hagi d'esperar, i això és molt millor amb tots.",
        ),
        ("indonesian", "Kumpulan ini menjaga beberapa koneksi tetap terbuka, dan tidak ada yang harus menunggu."),
        ("lithuanian", "Telkinys laiko kelis ryšius atvirus, kad niekam nereikėtų laukti, ir tai yra gerai."),
        ("russian", "Пул держит несколько соединений открытыми, чтобы никто не ждал нового."),
        (
            "serbian",
            "Група држи неколико веза отвореним, да нико не би чекао на нову, и то је добро за све који је користе.",
        ),
        ("arabic", "يحتفظ التجمع ببعض الاتصالات مفتوحة حتى لا ينتظر أحد من أجل اتصال جديد في هذا الوقت."),
        ("hindi", "पूल कुछ कनेक्शन खुले रखता है ताकि किसी को नए के लिए इंतज़ार न करना पड़े।"),
        (
            "greek",
            "Η ομάδα κρατά μερικές συνδέσεις ανοιχτές, για να μην περιμένει κανείς από την αρχή και να είναι γρήγορη.",
        ),
        ("simple", "Pula utrzymuje kilka otwartych połączeń, żeby nikt nie musiał czekać na nowe, i to jest dobre."),
        ("simple", "Пул тримає кілька з'єднань відкритими, щоб ніхто не чекав на нове, і це добре."),
        ("simple", "Nhóm giữ một số kết nối mở để không ai phải chờ đợi, và điều này là tốt cho mọi người."),
        *(("simple", sentence) for sentence in CHINESE + JAPANESE + KOREAN + THAI),
        (None, ""),
        (None, "Roses"),
        (None, "y tea fire"),
        (None, "12345 != 67890"),
        (None, "xkcd qwertz asdf jkl zxcv"),
    ],
)
def test_the_language_of_a_text(language: str | None, text: str) -> None:
    """One sentence is enough; where nothing is to be seen, nothing is said."""
    assert guess_language(text) == language


def test_code_does_not_count() -> None:
    """Python's keywords are English words; a German page with much code is German."""
    code = "```python\nfor x in this_is or not the_end: is_not = from_where\n```\n" * 20
    assert guess_language("# Der Anfang\n\n" + code + "\nDas ist der Text, und er ist nicht auf Englisch.") == "german"
    assert guess_language("Das ist `the code of the` und nicht mehr. [Wie](https://the.of/to/in)") == "german"


@given(st.text(max_size=300))
def test_any_text_may_be_asked_about(text: str) -> None:
    """No text is an error, and the answer is a configuration that PostgreSQL has."""
    language = guess_language(text)
    assert language is None or text_search_configuration(language) == language


async def test_a_document_is_in_the_language_it_seems_to_be_in(database: Settings) -> None:
    """Where none was given; what was given stays, and where nothing is to be seen, it is English."""
    german = "Die Rosen werden im Frühling geschnitten."
    assert (await db.insert_document("Rosen", "a", german))["language"] == "german"
    assert (await db.insert_document("Rosen", "b", german, language="fr"))["language"] == "french"
    assert (await db.upsert_document("Rosen", "b", german + " Und gedüngt."))["language"] == "french"
    assert (await db.upsert_document("n", "c", "12345"))["language"] == "english"
    assert (await db.upsert_document("庭", "d", "庭のバラ"))["language"] == "simple"


async def test_a_file_that_has_not_changed_keeps_its_language(database: Settings, tmp_path: Path) -> None:
    """Whoever named it once need not name it again."""
    file = tmp_path / "a.md"
    file.write_text("Die Rosen werden im Frühling geschnitten.")
    await db.ingest_directory(tmp_path, language="fr")
    assert (await db.ingest_directory(tmp_path))["unchanged"] == 1
    assert (await db.get_list_of_documents())[0]["language"] == "french"
    file.write_text("Die Rosen werden im Herbst nicht geschnitten.")
    assert (await db.ingest_directory(tmp_path))["updated"] == 1
    assert (await db.get_list_of_documents())[0]["language"] == "german"


async def test_a_question_finds_documents_in_its_language_first(database: Settings) -> None:
    """Also where another one says the words more often; a word alone is in no language."""
    await db.insert_document("Rosen", "english", "Rosen, Rosen and Rosen: the lawyers of the roses.")
    await db.insert_document("Garten", "german", "Die Rosen werden im Frühling geschnitten, und die Hecke im Herbst.")
    for number in range(20):
        await db.insert_document("Filler", f"filler {number}", "There is nothing of that in what we have to say here.")
        await db.insert_document("Füller", f"füller {number}", "Davon ist in dem nicht die Rede, was wir hier sagen.")
    assert [row["code"] for row in await db.search_documents("Rosen")] == ["english", "german"]
    found = await db.search_documents("Wann schneide ich die Rosen?")
    assert [row["code"] for row in found][:2] == ["german", "english"]
