"""Text that was decoded with the wrong encoding is found in many languages, and sound text that looks like it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.corpus.mojibake import mojibake

TEXTS = {
    "German": "Größe, Äpfel und Öl: über Straßen nach Übersee, „schön“ – so heißt es…",
    "French": "« Déjà vu », dit‑elle\u00a0: à Noël, l’œuvre coûtera 5\u00a0€.",
    "Portuguese": "“Amanhã não há reunião”, disse o avô à irmã; a ação é às três.",
    "Spanish": "¿Qué año? ¡Mañana será otro día! La canción «Corazón» dura 3½ minutos.",
    "Polish": "Zażółć gęślą jaźń; szczęście i łódź – „źdźbło”.",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Turkish": "Şişli'de yağmur yağıyor, İstanbul'da güneş var.",
    "Vietnamese": "Tiếng Việt có nhiều dấu, phải không?",
    "Russian": "Привет, мир! Это проверка.",
    "Greek": "Καλημέρα κόσμε, τι κάνεις;",
    "Hebrew": "שלום עולם",
    "Arabic": "مرحبا بالعالم",
    "Hindi": "नमस्ते दुनिया",
    "Japanese": "日本語の文章です。",
    "Emoji": "Well done 🎉",
}


def misread(text: str) -> str:
    """What a program shows that takes UTF-8 for Windows-1252, as browsers read it."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_sound_and_found_as_soon_as_it_is_misread(language: str) -> None:
    assert mojibake(TEXTS[language]) is None
    assert mojibake(misread(TEXTS[language])) is not None


@pytest.mark.parametrize(
    "word",
    ["groß", "Über", "Öl", "Привет", "Szczęście", "日", "‘so", "déjà vu", "l’été", "España", "ESPAÑA", "40 °C", "© 2020", "£5",
     "α", "π", "→", "™", "€5", "\ufefftext", "índice", "Århus", "żeby", "świat", "o é a"],
)  # fmt: skip
def test_one_word_is_enough(word: str) -> None:
    assert mojibake(word) is None
    assert mojibake(f"so {misread(word)} is") is not None


@pytest.mark.parametrize(
    "text",
    ["O jornal escreveu “AMANHÃ” na capa", "«IRMÃ»", "a letra “Ñ”", "AMANHÃ–HOJE", "MACEIÓ–RECIFE", "CAFÉ’S", "« café\u00a0»",
     "voilà…»", "«olá»\u00a0e", "„Weiß“", "Spaß»", "NESTLÉ®", "ÚŽASNÝ", "Úžasný", "VÝŠE", "Tomáš\u00a0Novák", "evenášši",
     "10 Å²", "3 Å³", "5 Å±0.1", "2×½", "Ø½", "Ä–Ö–Ü", "payé\u00a0€", "NO SÉ¿Y TÚ?", "„HOTĂRÂ”", "café²»", "Ä…", "É…MAIS"],
)  # fmt: skip
def test_what_only_looks_like_it_is_sound(text: str) -> None:
    assert mojibake(text) is None


@given(st.text(st.characters(max_codepoint=0x7F) | st.characters(min_codepoint=0x370, max_codepoint=0x3FF), max_size=20))
def test_letters_that_no_byte_stands_for_raise_nothing(text: str) -> None:
    assert mojibake(text) is None
