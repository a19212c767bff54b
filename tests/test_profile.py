import pytest

from helpers.tutorial.profile import ROOT, ProfileError, known_profiles, load_profile


def test_shipped_profiles_load_and_the_environment_variable_chooses(monkeypatch):
    assert [load_profile(name).name for name in known_profiles()] == known_profiles()
    monkeypatch.delenv("PROFILE", raising=False)
    assert load_profile().name == "default"
    monkeypatch.setenv("PROFILE", "lapdog")
    with pytest.raises(ProfileError, match=r"'lapdog'.*blog, blog-train, default, pretrain, smoke"):
        load_profile()


def test_extends_changes_only_what_it_states(tmp_path):
    (tmp_path / "default.toml").write_text((ROOT / "profiles/default.toml").read_text())
    (tmp_path / "mine.toml").write_text('extends = "default"\nseed = 43\n[data]\nmin_rating = 1\n')
    mine = load_profile("mine", folder=tmp_path)
    assert (mine.seed, mine.data.min_rating, mine.data.test_share) == (43, 1.0, 0.22)
    for text, said in (("seed = ", "is not valid TOML"), ("seed = 1", "data: Field required")):
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(ProfileError, match=f"profiles/mine.toml.*{said}"):
            load_profile("mine", folder=tmp_path)


def test_set_changes_single_settings(monkeypatch):
    changes = r"name=7 seed=7 distillation.budgets=[5,50] pretraining.text='C:\my text.xz'"
    monkeypatch.setenv("SET", f"{changes} teacher.training.dropout=0.3")
    trial = load_profile("default")
    assert (trial.name, trial.seed, trial.distillation.budgets) == ("7", 7, [5, 50])
    assert trial.pretraining.text == r"C:\my text.xz" and trial.teacher.training.dropout == 0.3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ("seed", "seed: Input should be a valid integer"),
        ("name='open", "SET: No closing quotation"),
        ("name=../elsewhere", r"profiles/default.toml with SET='name=.*elsewhere': name: "),
        ("data.min_ratign=1", "data.min_ratign: Extra inputs"),
        ("student.gold.epochs=true", "student.gold.epochs"),
        ("data.test_share=1.5", "data.test_share: Input should be less than 1"),
        ("teacher.frozen_layers=13", "frozen_layers is over"),
        ("student.architecture.hidden=250", "not a multiple of heads"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("benchmark.rounds=1", "rounds: Input should be greater than or equal to 2"),
        ("distillation.budgets=[]", "distillation.budgets"),
        ("transfer.source=x transfer.scores=stored", "set transfer.training_sentences=false"),
        ("transfer.training_sentences=false", "name a transfer.source"),
        ("baseline.weights=mine", "'untrained' or 'teacher'"),
        ("baseline.weights=teacher", "whose architecture differs"),
        ("pretraining.hidden_states.student_layers=[1]", "differ in length"),
    ],
)
def test_a_wrong_change_is_named(monkeypatch, changes, complaint):
    monkeypatch.setenv("SET", changes)
    with pytest.raises(ProfileError, match=complaint):
        load_profile("default")
