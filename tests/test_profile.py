import pytest

from helpers.tutorial.profile import ROOT, ProfileError, known_profiles, load_profile


@pytest.mark.parametrize("name", known_profiles())
def test_shipped_profiles_load(name):
    assert load_profile(name).name == name


def test_the_environment_variable_chooses(monkeypatch):
    monkeypatch.delenv("PROFILE", raising=False)
    assert load_profile().name == "laptop"
    monkeypatch.setenv("PROFILE", "smoke")
    assert load_profile().name == "smoke"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ProfileError, match=r"'lapdog'.*blog, blog-train, laptop, pretrain, smoke"):
        load_profile("lapdog")


def changed(tmp_path, old, new):
    text = (ROOT / "profiles/laptop.toml").read_text()
    assert old in text
    (tmp_path / "laptop.toml").write_text(text.replace(old, new, 1))
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("min_rating = 0.5", "min_ratign = 0.5", "data.min_ratign"),
        ("test_share = 0.22", "test_share = 1.5", "data.test_share"),
        ("frozen_layers = 6", "frozen_layers = 13", "frozen_layers is over"),
        ("hidden = 256, heads = 4", "hidden = 250, heads = 4", "not a multiple of heads"),
        ("seed = 42", "seed = ", "not valid TOML"),
        ('weights = "untrained"', 'weights = "teacher"', "whose architecture differs"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, old, new, complaint):
    with pytest.raises(ProfileError, match=complaint):
        load_profile("laptop", folder=changed(tmp_path, old, new))


def test_extends_changes_only_what_it_states(tmp_path):
    folder = changed(tmp_path, "seed = 42", "seed = 43")
    (folder / "mine.toml").write_text('extends = "laptop"\n[data]\nmin_rating = 1.0\n')
    mine = load_profile("mine", folder=folder)
    assert (mine.seed, mine.data.min_rating, mine.data.test_share) == (43, 1.0, 0.22)


def test_set_changes_single_settings(monkeypatch):
    changes = "name=trial seed=7 distillation.budgets=[5,50] pretraining.text='my text.xz'"
    monkeypatch.setenv("SET", changes)
    trial = load_profile("laptop")
    assert (trial.name, trial.seed, trial.distillation.budgets) == ("trial", 7, [5, 50])
    assert trial.pretraining.text == "my text.xz" and trial.changes == changes
    monkeypatch.delenv("SET")
    assert trial.teacher == load_profile("laptop").teacher


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ("seed", "'seed' is not of the form"),
        ("data.=1", "is not of the form"),
        ("name='open", "SET: No closing quotation"),
        ("data.min_ratign=1", "data.min_ratign"),
        ("name=../elsewhere", "name"),
        ("pretraining.hidden_states.student_layers=[1]", "differ in length"),
    ],
)
def test_a_wrong_change_is_named(monkeypatch, changes, complaint):
    monkeypatch.setenv("SET", changes)
    with pytest.raises(ProfileError, match=complaint):
        load_profile("laptop")


def test_references_are_found_by_their_full_names(monkeypatch):
    monkeypatch.setenv("SET", "student.gold.start=hf://org/gold distillation.generation.model=''")
    profile = load_profile("blog-train")
    assert profile.references("student", "distillation", "seed") == {
        "student.checkpoint": profile.student.checkpoint,
        "student.gold.start": "hf://org/gold",
    }


def test_the_blog_profiles_hold_what_the_blog_did():
    blog, train = load_profile("blog"), load_profile("blog-train")
    assert blog.teacher.training.epochs == blog.student.gold.epochs == 0
    assert blog.student.distil.epochs == 0 and blog.baseline.weights == "teacher"
    theirs = train.student.distil
    assert (theirs.learning_rate, theirs.batch_size, theirs.epochs) == (6e-5, 128, 7)
    assert (theirs.weight_decay, theirs.warmup, train.max_length) == (0.01, 0, 64)
    mini = load_profile("laptop").student.architecture
    assert tuple(mini.model_dump().values()) == (4, 256, 4, 1024, 30522)
    assert blog.student.architecture == train.student.architecture == mini
