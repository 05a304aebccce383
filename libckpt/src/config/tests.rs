use super::*;

fn none(_: &str) -> Option<String> {
    None
}

fn from(text: &str) -> Result<Config, Error> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("mana.conf");
    std::fs::write(&path, text).expect("write");
    let env = |name: &str| (name == "SCRATCH").then(|| "/scratch".to_owned());
    Config::load(Some(&path), &BTreeMap::new(), &env)
}

#[test]
fn both_forms_say_the_same() {
    let older = from("# old\nglobal_ckpt_dir=/g\nlocal_ckpt_interval=10 # s\ntest_mode=1\n")
        .expect("older");
    let toml = from("global_ckpt_dir = \"/g\"\nlocal_ckpt_interval = 10\ntest_mode = true\n")
        .expect("toml");
    assert_eq!(
        Config {
            file: None,
            ..older
        },
        Config { file: None, ..toml }
    );
}

#[test]
fn errors_name_line_and_nearest_key() {
    let text = from("test_mode = 1\nlocal_ckpt_intervall = 3\n")
        .expect_err("unknown key")
        .to_string();
    assert!(
        text.contains("line 2") && text.contains("local_ckpt_interval"),
        "{text}"
    );
    for bad in [
        "keep = 0",
        "local_ckpt_interval = -1",
        "node_size = \"x\"",
        "global_ckpt_interval = 1e99",
        "snapshot = \"now\"",
        "keep = [1]",
        "checkpoint_signals = \"KILL\"",
        "at_end = \"again\"",
        "on_resubmit = \"go\"",
        "end_margin = -3",
        "a b c",
    ] {
        let text = from(bad).expect_err(bad).to_string();
        assert!(text.contains("line 1"), "{bad}: {text}");
    }
}

#[test]
fn a_text_without_its_end_is_named() {
    for text in [
        "keep = 2\nglobal_ckpt_dir = \"/x\n",
        "# a\nfiles = \"copy\n",
    ] {
        let said = from(text).expect_err("not closed").to_string();
        assert!(
            said.contains("line 2") && said.contains("quotation mark"),
            "{said}"
        );
    }
}

#[test]
fn what_a_shell_would_replace_is_refused() {
    for (path, right) in [
        ("~/ck", "${HOME}"),
        ("~", "${HOME}"),
        ("$SCRATCH/ck", "${SCRATCH}"),
        ("/g/$SCRATCH", "${SCRATCH}"),
    ] {
        let error = from(&format!("global_ckpt_dir = \"{path}\"")).expect_err(path);
        assert!(error.to_string().contains(right), "{error}");
    }
    for name in ["/a~b/50$", "/data/$proj", "~ck"] {
        from(&format!("global_ckpt_dir = \"{name}\"")).expect("a name like others");
    }
}

#[test]
fn variables_are_expanded_or_refused() {
    let c = from("global_ckpt_dir = \"${SCRATCH}/ck\"").expect("defined");
    assert_eq!(c.global_ckpt_dir, Path::new("/scratch/ck"));
    let text = from("global_ckpt_dir = \"${NOPE}/ck\"")
        .expect_err("undefined")
        .to_string();
    assert!(text.contains("NOPE"), "{text}");
}

#[test]
fn variables_of_a_job_are_no_concern_of_tools() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("mana.conf");
    let text = "global_ckpt_dir = \"/g\"\nlocal_ckpt_dir = \"/local/${SLURM_JOB_ID}\"\n\
        log_file = \"/log-${SLURM_JOB_ID}\"\nplugins = [\"/p\", \"/${SLURM_JOB_ID}\"]\n";
    std::fs::write(&path, text).expect("write");
    let load = |needed: &[&str], env: &dyn Fn(&str) -> Option<String>| {
        Config::load_for(needed, Some(&path), &BTreeMap::new(), env)
    };
    let c = load(&["global_ckpt_dir"], &none).expect("loads");
    assert_eq!(c.local_ckpt_dir, Path::new("/local/${SLURM_JOB_ID}"));
    assert_eq!((c.lines.file, c.plugins), (None, Vec::new()));
    let needed = ["global_ckpt_dir", "local_ckpt_dir"];
    let text = load(&needed, &none).expect_err("needed").to_string();
    for word in ["local_ckpt_dir", "SLURM_JOB_ID", "--set"] {
        assert!(text.contains(word), "{text}");
    }
    let inside = |_: &str| Some("7".to_owned());
    let c = load(&["global_ckpt_dir"], &env_only(&inside)).expect("loads");
    assert_eq!(c.local_ckpt_dir, Path::new("/local/7"));
    assert_eq!(c.plugins, [Path::new("/p"), Path::new("/7")]);
}

#[test]
fn command_line_beats_environment_beats_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("mana.conf");
    std::fs::write(&path, "keep = 3\nnode_size = 3\ngroup_size = 3\n").expect("write");
    let env = |n: &str| {
        ["MANA_KEEP", "MANA_NODE_SIZE"]
            .contains(&n)
            .then(|| "4".to_owned())
    };
    let options = BTreeMap::from([("keep".to_owned(), "5".to_owned())]);
    let c = Config::load(Some(&path), &options, &env).expect("loads");
    assert_eq!((c.keep[0], c.node_size, c.group_size), (5, 4, 3));
}

#[test]
fn the_group_level_is_served_as_partner_with_one_note() {
    let c = from("solomon_ckpt_interval = 7\n").expect("loads");
    assert_eq!(c.interval(Level::Partner), Some(Duration::from_secs(7)));
    assert_eq!((c.interval(Level::Group), c.notes.len()), (None, 1));
}

#[test]
fn signals_and_what_follows_the_last_checkpoint() {
    let c = from("checkpoint_signals = \"TERM USR1\"\nat_end = \"requeue\"\nend_margin = 30\n")
        .expect("loads");
    assert_eq!(
        c.checkpoint_signals,
        Some(vec![libc::SIGTERM, libc::SIGUSR1])
    );
    assert_eq!((c.at_end, c.end_margin), (AtEnd::Requeue, Some(30.0)));
    let c = from("checkpoint_signals = none\nend_margin = auto\n").expect("loads");
    assert_eq!((c.checkpoint_signals, c.end_margin), (Some(vec![]), None));
    assert_eq!(from("keep = 1\n").expect("loads").checkpoint_signals, None);
}

#[test]
fn what_a_script_does_that_is_submitted_again() {
    let said = |text: &str| from(text).expect("loads").on_resubmit;
    assert_eq!(said("keep = 1\n"), OnResubmit::Anew);
    assert_eq!(said("on_resubmit = \"resume\"\n"), OnResubmit::Resume);
    assert_eq!(said("on_resubmit = \"refuse\"\n"), OnResubmit::Refuse);
}

#[test]
fn without_a_file_it_says_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let missing = dir.path().join("none");
    assert!(Config::load(Some(&missing), &BTreeMap::new(), &none).is_err());
}

#[test]
fn templates_are_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates");
    let env = |name: &str| Some(format!("/{name}"));
    let mut n = 0;
    for entry in std::fs::read_dir(dir).expect("templates").flatten() {
        if entry.path().extension().is_some_and(|e| e == "conf") {
            Config::load(Some(&entry.path()), &BTreeMap::new(), &env_only(&env))
                .expect("template loads");
            n += 1;
        }
    }
    assert!(n >= 4, "only {n} templates");
}

/// Variables for paths, none of the `MANA_` overrides.
fn env_only<'a>(env: &'a dyn Fn(&str) -> Option<String>) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| (!name.starts_with("MANA_")).then(|| env(name)).flatten()
}

/// The tables of docs/guide/configuration.md: key, variable, values, default of each row.
fn documented() -> Vec<[String; 4]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/configuration.md");
    let text = std::fs::read_to_string(path).expect("the page");
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let mut cell = || Some(cells.next()?.to_owned());
            let row = [cell()?, cell()?, cell()?, cell()?];
            (row[0].starts_with('`') && row[1].starts_with('`')).then_some(row)
        })
        .collect()
}

/// What stands between backquotes.
fn spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_guide_has_every_key_with_its_default_and_values() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let empty = dir.path().join("mana.conf");
    std::fs::write(&empty, "").expect("write");
    let env = |name: &str| (name == "TMPDIR").then(|| "/some/where".to_owned());
    let with = |key: &str, value: &str| {
        let options = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        Config::load(Some(&empty), &options, &env)
    };
    let unset = Config::load(Some(&empty), &BTreeMap::new(), &env).expect("no keys");
    // Free text and lists of paths: nothing is refused, or nothing set by default.
    let text = ["path", "paths", "name", "list"];
    let rows = documented();
    let mut keys: Vec<&str> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    keys.sort_unstable();
    let mut known = keys::NAMES;
    known.sort_unstable();
    assert_eq!(keys, known);
    for [key, variable, values, default] in &rows {
        let key = spans(key)[0];
        assert_eq!(spans(variable), [keys::variable(key)]);
        match spans(default).first() {
            Some(value) => {
                assert_eq!(with(key, value).expect(key), unset, "{key} = {value}");
            }
            None => assert!(default.is_empty(), "{key}: {default:?}"),
        }
        for value in spans(values) {
            with(key, value).unwrap_or_else(|e| panic!("{key} = {value}: {e}"));
        }
        let first = values.split([' ', ',']).next().unwrap_or("");
        let free = text.contains(&first) || values == "truth";
        if !free {
            assert!(with(key, "no such value").is_err(), "{key}: {values:?}");
        }
        let bound = |word: &str, value: &str| {
            if values.contains(word) {
                assert!(with(key, value).is_err(), "{key} = {value}, {values}");
            }
        };
        bound("from 1", "0");
        bound("seconds", "-1");
        bound("to 4096", "4097");
        bound("truth", "maybe");
    }
}
