use serde_json::json;

use super::*;

fn read(text: &str, overrides: &[&str]) -> Result<SweepConfig, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sweep.toml");
    std::fs::write(&path, text).unwrap();
    let overrides: Vec<String> = overrides.iter().map(|given| (*given).to_owned()).collect();
    load_sweep(&path, &overrides)
}

fn faults(text: &str) -> Vec<String> {
    match read(text, &[]) {
        Ok(config) => panic!("{config:?}"),
        Err(ConfigError::Faults { faults, .. }) => faults.iter().map(Fault::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

fn names(config: &SweepConfig) -> Vec<String> {
    config.points().into_iter().map(|point| point.name).collect()
}

#[test]
fn keys_are_dotted_in_the_order_of_the_file_and_braces_are_values() {
    let text = r#"
        base = "train.toml"
        set = { "train.epochs" = 3, loss.tail = "prior" }
        [grid]
        seed = [1, 0]
        loss.temperature = [4, 1.5]
        "optimizer.learning_rate" = [1e-3]
        student = [{ kind = "mlp", hidden = [8, 4] }, { kind = "conv", channels = [4] }]
        [grid.loss.weights]
        kl = [1.0]
    "#;
    let config = read(text, &[]).unwrap();
    let keys: Vec<&str> = config.grid.keys().map(String::as_str).collect();
    assert_eq!(keys, ["seed", "loss.temperature", "optimizer.learning_rate", "student", "loss.weights.kl"]);
    assert_eq!(Value::from(config.set.clone()), json!({ "train.epochs": 3, "loss.tail": "prior" }));
    assert_eq!(config.swept(), keys);
    let points = config.points();
    assert_eq!(points.len(), 8);
    assert_eq!(points[0].name, "seed=1,temperature=4,learning_rate=0.001,student=mlp-8-4,kl=1.0");
    assert_eq!(points[7].name, "seed=0,temperature=1.5,learning_rate=0.001,student=conv-4,kl=1.0");
    assert_eq!(points[0].keys["student"], json!({ "kind": "mlp", "hidden": [8, 4] }));
    assert_eq!(points[1].keys["seed"], json!(1), "the first key changes slowest");
}

#[test]
fn a_table_in_a_list_sets_keys_one_by_one_and_goes_with_the_grid() {
    let text = r#"
        base = "train.toml"
        cache = "cache"
        [[list]]
        loss.temperature = 2
        loss.tail = "prior"
        [[list]]
        loss.temperature = -1
        student = { kind = "conv", channels = [4] }
        cache = "/caches/b/"
        [grid]
        seed = [0, 1]
    "#;
    let config = read(text, &[]).unwrap();
    assert_eq!(
        names(&config),
        [
            "temperature=2,tail=prior,seed=0",
            "temperature=2,tail=prior,seed=1",
            "temperature=-1,student=conv-4,cache=b,seed=0",
            "temperature=-1,student=conv-4,cache=b,seed=1",
        ]
    );
    assert_eq!(config.swept(), ["loss.temperature", "loss.tail", "student", "cache", "seed"]);
    assert!(config.base.is_absolute() && config.base.ends_with("train.toml"), "{:?}", config.base);
    assert!(config.cache.as_ref().is_some_and(|cache| cache.is_absolute() && cache.ends_with("cache")));
    assert_eq!(config.list[1]["cache"], json!("/caches/b/"));
}

#[test]
fn names_are_plain_and_none_is_given_twice() {
    let text = r#"
        base = "train.toml"
        [grid]
        loss.tail = ["a b", "a/b"]
        other.tail = ["x"]
        cache = ["one/cache", "two/cache"]
    "#;
    let names = names(&read(text, &[]).unwrap());
    assert_eq!(names[0], "loss.tail=a-b,other.tail=x,cache=cache");
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), 4, "{names:?}");
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-+=,".contains(c);
    assert!(names.iter().all(|name| name.chars().all(legal)), "{names:?}");
    let long = format!("base = \"t\"\n[grid]\ntokenizer = [\"{}\", \"b\"]", "a".repeat(400));
    assert!(read(&long, &[]).unwrap().points().iter().all(|point| point.name.len() <= 150));
}

#[test]
fn the_command_line_changes_keys() {
    let text = "base = \"train.toml\"\n[grid]\nseed = [0]\nloss.temperature = [1]";
    let set =
        ["jobs=2", "grid.seed=[0, 1, 2]", "grid.loss.tail=[\"prior\"]", "set.train.epochs=7", "cache=/c"];
    let config = read(text, &set).unwrap();
    assert_eq!((config.jobs.to_string().as_str(), config.points().len()), ("2", 3));
    assert_eq!(read(text, &["jobs=\"auto\""]).unwrap().jobs, NumberOrAuto::Auto);
    assert_eq!(config.swept(), ["seed", "loss.temperature", "loss.tail"]);
    assert_eq!((&config.set["train.epochs"], config.cache), (&json!(7), Some("/c".into())));
    for wrong in ["list=[]", "grid={}", "job.s=1", "jobs"] {
        assert!(read(text, &[wrong]).unwrap_err().to_string().starts_with("--set"), "{wrong}");
    }
}

#[test]
fn all_faults_come_at_once() {
    let found = faults(
        r#"
        bas = "x"
        jobs = 0
        [grid]
        seed = 3
        loss.temperature = []
    "#,
    );
    assert_eq!(
        found,
        [
            "bas: unknown key; did you mean base? (known: base, cache, grid, jobs, list, rank_by, set)",
            "base: missing",
            "grid.loss.temperature: expected at least one value, found none",
            "grid.seed: expected a list, found 3",
            "jobs: expected at least 1, found 0",
        ]
    );
    let found = faults(
        r#"
        base = "x"
        set = { seed = 1, student.hidden = [3], cache = "c" }
        [[list]]
        loss.temperature = 1
        [[list]]
        loss.temperature = 1
        [[list]]
        cache = 3
        [grid]
        seed = [0, 1, 0]
        student = [{ kind = "mlp" }]
        loss.tail = []
    "#,
    );
    assert_eq!(
        found,
        [
            "grid.loss.tail: expected at least one value, found none",
            "grid.seed: expected values that differ, found 0 twice",
            "grid.seed: would replace set.seed; give one of them",
            "grid.student: would replace set.student.hidden; give one of them",
            "list.cache: would replace set.cache; give one of them",
            "list[1]: is list[0] once more",
            "list[2].cache: expected a cache's folder, found 3",
            "set.cache: expected cache beside base, or among the keys that change",
        ]
    );
    assert!(faults("base = \"x\"")[0].contains("expected [grid] or [[list]]"));
    let braces = faults("base = \"x\"\n[grid]\nstudent = { kind = \"mlp\" }");
    assert_eq!(braces, ["grid.student: expected a list, found a table"]);
    let values: Vec<String> = (0..101).map(|at| at.to_string()).collect();
    let many = format!("base = \"x\"\n[grid]\na = [{0}]\nb = [{0}]", values.join(", "));
    assert_eq!(faults(&many), ["grid: expected at most 10000 runs, found 10201"]);
    let twice = faults("base = \"x\"\n[grid]\n\"loss.temperature\" = [1]\nloss.temperature = [2]");
    assert_eq!(twice, ["grid.loss.temperature: is given twice"]);
}
