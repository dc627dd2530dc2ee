use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
};

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_ref()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn watch(&self, options: WatchOptions) -> Watch {
        Watch::new(vec![self.0.path().into()], options)
    }

    /// One look, shown.
    async fn check(&self, watch: &mut Watch, expected: Expect) -> Vec<Batch> {
        let mut batches = watch.poll_once().await;
        batches.sort_by(|one, other| one.path.cmp(&other.path));
        let shown: Vec<String> = batches.iter().map(|batch| show(batch, self.0.path())).collect();
        expected.assert_eq(&shown.join("\n"));
        batches
    }
}

fn show(batch: &Batch, folder: &Path) -> String {
    let mut shown =
        format!("{} {}@{}", batch.path.strip_prefix(folder).unwrap().display(), batch.start_line, batch.start_offset);
    if let Some(Interruption { kind, unread_bytes }) = batch.interruption {
        shown.push_str(&format!(" {kind:?} unread {unread_bytes}"));
    }
    if let Some(Oversized { line, offset, length }) = batch.oversized {
        shown.push_str(&format!(" oversized line {line} at {offset} of {length}"));
    }
    for line in &batch.lines {
        shown.push_str(&format!(" [{}]", line.escape_ascii()));
    }
    shown + &format!(" -> {}@{}", batch.position.line, batch.position.offset)
}

/// Looks until there is nothing more to read at once.
async fn everything(watch: &mut Watch) -> Vec<Batch> {
    while watch.look().await.unwrap() {}
    watch.ready.drain(..).collect()
}

#[tokio::test]
async fn complete_lines_come_once() {
    let folder = Folder::new();
    let mut watch = folder.watch(WatchOptions::default());
    folder.check(&mut watch, expect![[""]]).await;
    folder.append("a.jsonl", "one\ntwo\r\n\nthr");
    folder.append("not.txt", "other\n");
    for _ in 0..5 {
        // Found by the next walk.
        watch.poll_once().await.iter().for_each(|batch| assert_eq!(batch.lines.len(), 3));
    }
    folder.check(&mut watch, expect![[""]]).await;
    folder.append("a.jsonl", "ee");
    folder.check(&mut watch, expect![[""]]).await;
    folder.append("a.jsonl", b"\n\xff\n");
    folder.check(&mut watch, expect![[r#"a.jsonl 4@10 [three] [\xff] -> 5@18"#]]).await;
    folder.check(&mut watch, expect![[""]]).await;
}

fn each_walks() -> WatchOptions {
    WatchOptions { rounds_per_walk: 1, ..WatchOptions::default() }
}

#[tokio::test]
async fn folders_and_files_that_appear_later() {
    let folder = Folder::new();
    let named = folder.path("deep/named.log");
    let mut watch = Watch::new(vec![folder.path("later"), named], each_walks());
    folder.check(&mut watch, expect![[""]]).await;
    folder.append("later/x/y/z.jsonl", "one\n");
    folder.append("deep/named.log", "two\n");
    folder.append("deep/other.jsonl", "not named\n");
    folder
        .check(
            &mut watch,
            expect![[r#"
        deep/named.log 1@0 [two] -> 1@4
        later/x/y/z.jsonl 1@0 [one] -> 1@4"#]],
        )
        .await;
}

#[tokio::test]
async fn rotation_by_rename_loses_nothing() {
    let folder = Folder::new();
    let mut watch = folder.watch(WatchOptions::default());
    folder.append("a.jsonl", "one\n");
    folder.check(&mut watch, expect!["a.jsonl 1@0 [one] -> 1@4"]).await;
    // The last lines go to the old file, after it was seen and before it was renamed, and after that.
    folder.append("a.jsonl", "two\n");
    folder.rename("a.jsonl", "a.jsonl.1");
    folder.append("a.jsonl.1", "three\n");
    folder.append("a.jsonl", "new one\n");
    folder
        .check(
            &mut watch,
            expect![[r#"
        a.jsonl 1@0 [new one] -> 1@8
        a.jsonl.1 2@4 [two] [three] -> 3@14"#]],
        )
        .await;
    folder.append("a.jsonl.1", "four\n");
    folder.append("a.jsonl", "new two\n");
    folder
        .check(
            &mut watch,
            expect![[r#"
        a.jsonl 2@8 [new two] -> 2@16
        a.jsonl.1 4@14 [four] -> 4@19"#]],
        )
        .await;
}

#[tokio::test]
async fn cut_and_replaced_files_start_over_and_say_so() {
    let folder = Folder::new();
    let mut watch = folder.watch(each_walks());
    folder.append("a.jsonl", "one\ntwo\npart");
    folder.append("b.jsonl", "first\nsecond\n");
    folder
        .check(
            &mut watch,
            expect![[r#"
        a.jsonl 1@0 [one] [two] -> 2@8
        b.jsonl 1@0 [first] [second] -> 2@13"#]],
        )
        .await;
    // Copied away and cut; the unfinished line had been seen.
    fs::write(folder.path("a.jsonl"), "x\n").unwrap();
    // Written anew, and longer than before.
    fs::write(folder.path("b.jsonl"), "other\nlines that are longer\n").unwrap();
    folder
        .check(
            &mut watch,
            expect![[r#"
        a.jsonl 1@0 Truncated unread 4 [x] -> 1@2
        b.jsonl 1@0 Replaced unread 0 [other] [lines that are longer] -> 2@28"#]],
        )
        .await;
    folder.append("a.jsonl", "y\n");
    folder.check(&mut watch, expect!["a.jsonl 2@2 [y] -> 2@4"]).await;
    // An empty file says nothing until lines come.
    fs::write(folder.path("a.jsonl"), "").unwrap();
    folder.check(&mut watch, expect![[""]]).await;
    folder.append("a.jsonl", "z\n");
    folder.check(&mut watch, expect!["a.jsonl 1@0 Truncated unread 0 [z] -> 1@2"]).await;
}

#[tokio::test]
async fn a_removed_file_tells_what_was_not_read() {
    let folder = Folder::new();
    let mut watch = folder.watch(each_walks());
    folder.append("a.jsonl", "one\nunfinished");
    folder.append("b.jsonl", "done\n");
    folder
        .check(
            &mut watch,
            expect![[r#"
        a.jsonl 1@0 [one] -> 1@4
        b.jsonl 1@0 [done] -> 1@5"#]],
        )
        .await;
    fs::remove_file(folder.path("a.jsonl")).unwrap();
    fs::remove_file(folder.path("b.jsonl")).unwrap();
    folder.check(&mut watch, expect![[""]]).await;
    folder.check(&mut watch, expect![[""]]).await;
    folder.check(&mut watch, expect!["a.jsonl 2@4 Removed unread 10 -> 1@4"]).await;
}

#[tokio::test]
async fn an_unfinished_line_that_is_rewritten_is_read_as_it_is_now() {
    let folder = Folder::new();
    let mut watch = folder.watch(each_walks());
    folder.append("a.jsonl", "abcd");
    folder.check(&mut watch, expect![[""]]).await;
    fs::write(folder.path("a.jsonl"), "x\nyz\nmore\n").unwrap();
    folder.check(&mut watch, expect![[""]]).await;
    folder.check(&mut watch, expect!["a.jsonl 1@0 [x] [yz] [more] -> 3@10"]).await;
}

#[tokio::test]
async fn goes_on_where_an_earlier_run_stopped() {
    let folder = Folder::new();
    for name in ["same", "renamed", "copied", "replaced", "cut"] {
        folder.append(&format!("{name}.jsonl"), format!("{name} one\n{name} two\n"));
    }
    let mut watch = folder.watch(WatchOptions::default());
    let positions: Vec<Position> = watch.poll_once().await.into_iter().map(|batch| batch.position).collect();
    drop(watch);
    let stored = serde_json::to_string(&positions).unwrap();
    folder.rename("renamed.jsonl", "new name.jsonl");
    fs::copy(folder.path("copied.jsonl"), folder.path("copy")).unwrap();
    folder.rename("copy", "copied.jsonl");
    fs::write(folder.path("replaced.jsonl"), "something else, and longer than it was\n").unwrap();
    fs::write(folder.path("cut.jsonl"), "cut one\n").unwrap();
    for name in ["same", "new name", "copied", "new"] {
        folder.append(&format!("{name}.jsonl"), "three\n");
    }
    let positions = serde_json::from_str(&stored).unwrap();
    let mut watch = folder.watch(WatchOptions { positions, ..WatchOptions::default() });
    folder
        .check(
            &mut watch,
            expect![[r#"
                copied.jsonl 3@22 [three] -> 3@28
                cut.jsonl 1@0 Truncated unread 0 [cut one] -> 1@8
                new name.jsonl 3@24 [three] -> 3@30
                new.jsonl 1@0 [three] -> 1@6
                replaced.jsonl 1@0 Replaced unread 0 [something else, and longer than it was] -> 1@39
                same.jsonl 3@18 [three] -> 3@24"#]],
        )
        .await;
}

#[tokio::test]
async fn a_file_of_another_name_is_read_only_while_it_is_the_one_that_was_followed() {
    let folder = Folder::new();
    let mut watch = folder.watch(each_walks());
    folder.append("a.jsonl", "one\n");
    folder.check(&mut watch, expect!["a.jsonl 1@0 [one] -> 1@4"]).await;
    folder.rename("a.jsonl", "private.txt");
    fs::write(folder.path("private.txt"), "another thing, not to be read\n").unwrap();
    for _ in 0..4 {
        folder.check(&mut watch, expect![[""]]).await;
    }
    folder.append("private.txt", "nor this\n");
    folder.check(&mut watch, expect![[""]]).await;
}

#[tokio::test]
async fn starting_at_the_end_counts_the_lines_before() {
    let folder = Folder::new();
    folder.append("a.jsonl", "one\ntwo\nthr");
    let mut watch = folder.watch(WatchOptions { start: Start::End, ..each_walks() });
    folder.check(&mut watch, expect![[""]]).await;
    folder.append("a.jsonl", "ee\n");
    folder.append("later.jsonl", "all of it\n");
    folder
        .check(
            &mut watch,
            expect![[r#"
        a.jsonl 3@8 [three] -> 3@14
        later.jsonl 1@0 [all of it] -> 1@10"#]],
        )
        .await;
}

#[tokio::test]
async fn bounds_are_kept_and_everything_comes() {
    let folder = Folder::new();
    let options =
        WatchOptions { batch_bytes_max: 8, round_bytes_max: 10, line_bytes_max: 20, files_max: 2, ..each_walks() };
    folder.append("a.jsonl", "1\n22\n333\n");
    folder.append("b.jsonl", format!("{}\nok\n{}\n{}\nend\n", "x".repeat(21), "y".repeat(20), "z".repeat(100)));
    folder.append("c.jsonl", "left out\n");
    let mut watch = folder.watch(options);
    let batches = everything(&mut watch).await;
    let mut shown: Vec<String> = batches.iter().map(|batch| show(batch, folder.0.path())).collect();
    shown.sort();
    expect![[r#"
        a.jsonl 1@0 [1] [22] -> 2@5
        a.jsonl 3@5 [333] -> 3@9
        b.jsonl 2@22 [ok] -> 2@25
        b.jsonl 2@22 oversized line 1 at 0 of 21 -> 1@22
        b.jsonl 3@25 [yyyyyyyyyyyyyyyyyyyy] -> 3@46
        b.jsonl 5@147 [end] -> 5@151
        b.jsonl 5@147 oversized line 4 at 46 of 100 -> 4@147"#]]
    .assert_eq(&shown.join("\n"));
}

#[tokio::test]
async fn links_to_folders_do_not_loop() {
    let folder = Folder::new();
    folder.append("a/a.jsonl", "one\n");
    std::os::unix::fs::symlink(folder.0.path(), folder.path("a/loop")).unwrap();
    fs::hard_link(folder.path("a/a.jsonl"), folder.path("a/twin.jsonl")).unwrap();
    let mut watch = folder.watch(each_walks());
    assert_eq!(watch.poll_once().await.len(), 1);
}

#[tokio::test]
async fn next_waits_for_lines_and_survives_being_cancelled() {
    let folder = Folder::new();
    let mut watch = folder.watch(WatchOptions { poll_interval: Duration::from_millis(1), ..WatchOptions::default() });
    for round in 0..50 {
        folder.append("a.jsonl", format!("{round}\n"));
        let batch = loop {
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => {}
                batch = watch.next() => break batch.unwrap(),
            }
            tokio::select! {
                biased;
                batch = watch.next() => break batch.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
        };
        assert_eq!((batch.start_line, batch.lines), (round + 1, vec![Bytes::from(round.to_string())]));
    }
}

#[derive(Clone, Debug)]
enum Action {
    Append(Vec<u8>),
    Look,
    Rotate,
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => prop::collection::vec(prop_oneof![3 => Just(b'\n'), 5 => any::<u8>()], 0..40).prop_map(Action::Append),
        4 => Just(Action::Look),
        1 => Just(Action::Rotate),
        1 => Just(Action::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_written_comes_out_in_order(actions in prop::collection::vec(action(), 0..30), batch_bytes_max in 1..50_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let folder = Folder::new();
            let options = |positions| WatchOptions { batch_bytes_max, round_bytes_max: 100, positions, ..each_walks() };
            let mut watch = folder.watch(options(Vec::new()));
            let (mut written, mut read) = (vec![Vec::new()], std::collections::BTreeMap::<u64, Vec<u8>>::new());
            let mut positions = std::collections::BTreeMap::new();
            let mut take = |batches: Vec<Batch>| {
                let mut count = 0;
                for batch in batches {
                    let text = read.entry(batch.position.inode).or_default();
                    assert_eq!(batch.start_offset, text.len() as u64);
                    assert_eq!(batch.start_line, memchr::memchr_iter(b'\n', text).count() as u64 + 1);
                    assert!(batch.interruption.is_none() && batch.oversized.is_none());
                    for line in &batch.lines {
                        text.extend_from_slice(line);
                        text.push(b'\n');
                        count += 1;
                    }
                    positions.insert(batch.position.inode, batch.position);
                }
                (count, positions.values().cloned().collect::<Vec<_>>())
            };
            for action in actions {
                match action {
                    Action::Append(bytes) => {
                        folder.append("a.jsonl", &bytes);
                        written.last_mut().unwrap().extend(bytes);
                    }
                    Action::Look => drop(take(watch.poll_once().await)),
                    // Once something of it was given out: what is renamed before a restart and has no position is not known.
                    Action::Rotate => {
                        let (_, positions) = take(watch.poll_once().await);
                        let inode = fs::metadata(folder.path("a.jsonl")).ok().map(|metadata| metadata.ino());
                        if positions.iter().any(|position| Some(position.inode) == inode) {
                            folder.rename("a.jsonl", &format!("a.jsonl.{}", written.len()));
                            written.push(Vec::new());
                        }
                    }
                    Action::Restart => {
                        let (_, positions) = take(Vec::new());
                        watch = folder.watch(options(positions));
                    }
                }
            }
            drop(take(everything(&mut watch).await));
            let mut expected: Vec<Vec<u8>> = written.into_iter().map(|mut bytes| {
                let end = memchr::memrchr(b'\n', &bytes).map_or(0, |last| last + 1);
                bytes.truncate(end);
                bytes
            }).filter(|bytes| !bytes.is_empty()).collect();
            let mut read: Vec<Vec<u8>> = read.into_values().collect();
            expected.sort();
            read.sort();
            assert_eq!(read, expected);
        });
    }
}
