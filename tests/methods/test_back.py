"""Steps are replaced from the back: those that stay are read before the thinking."""

import pytest
from helpers import live, needs, spell, words

import curriculum
from config import UserError
from curriculum import change


@pytest.mark.parametrize(
    "settings, stage, expected",
    [
        ({}, 0, " a b <bot> | 0 | [<eot>] c d e f = g <eos>"),
        ({}, 1, " a b c d e <bot> | 1 | [<eot>] = g <eos>"),
        ({}, 2, " a b c <bot> | 2 | [<eot>] = g <eos>"),
        ({}, 3, " a b <bot> | 2 | [<eot>] = g <eos>"),
        ({"c_thought": 2}, 1, " a b c d e <bot> | 2 | [<eot>] = g <eos>"),
        ({"method": "pause_as_thought+back"}, 1, " a b c d e <bot> <pause> | 0 | [<eot>] = g <eos>"),
        ({"method": "no_thought+back"}, 1, " a b c d e | 0 | = g <eos>"),
        ({"markers": "none"}, 1, " a b c d e | 1 | = g <eos>"),
    ],
)
def test_segments(settings, stage, expected):
    """Catches any error in what is shown and scored."""
    cfg, tok, problem = words(**{"method": "coconut+back", **settings})
    assert spell(curriculum.row_for(problem, stage, cfg, tok), tok) == expected


@pytest.mark.parametrize("stage, said", [(0, "c"), (1, "f-"), (2, "df-"), (3, "cd-")])
def test_the_last_state_has_nothing_to_say_about_steps_that_are_gone(stage, said):
    """Catches a step that no thought stands for, asked of a state that has the answer to say."""
    needs("sets")
    cfg, tok, problem = words(method="coconut+back+sets", thought_targets="steps", markers="none")
    found = curriculum.row_for(problem, stage, cfg, tok).extra["targets"]
    assert "".join(tok.decode(tokens).strip() if tokens else "-" for tokens in found) == said


@pytest.mark.parametrize("method", ["cot", "no_cot", "icot", "pause", "no_curriculum"])
def test_where_it_would_change_nothing(method):
    """Catches a name that does nothing, in silence: where all steps go at once, none is the last."""
    cfg, tok, problem = words(method=f"{method}+back")
    with pytest.raises(UserError, match="back has no effect"):
        curriculum.row_for(problem, 3, cfg, tok)


def test_its_place_among_other_names():
    """Catches a method that has looked at the first steps where the last ones are replaced."""
    for other in "simcot", "sets", "stop", "codi":
        needs(other)
        cfg, tok, problem = words(method=f"coconut+back+{other}")
        assert curriculum.row_for(problem, 1, cfg, tok).replaced == problem.steps[2:]
        with pytest.raises(UserError, match="expected back before what looks at thoughts"):
            curriculum.row_for(problem, 1, change(cfg, method=f"{other}+back"), tok)


@pytest.mark.parametrize("method", ["coconut+back", "coconut+back+simcot", "no_thought+back", "pause_as_thought+back"])
def test_it_is_trained_resumed_evaluated_and_sampled(method, tmp_path, monkeypatch, capsys):
    live(method, tmp_path, monkeypatch, capsys)
