//! Files appear whole, in order, once: through kills between any two calls.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::executor::block_on;
use millstream_connect_api::config::parse_toml;
use millstream_connect_api::{SinkConnector, SinkPartition};
use millstream_record::TopicId;
use tempfile::TempDir;

use super::*;
use crate::FileSink;

struct World {
    folder: TempDir,
    state: TempDir,
    settings: String,
    topic: &'static str,
    id: TopicId,
    committed: Option<Offset>,
    now: i64,
}

fn topic() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn input() -> SinkInput {
    let fields = vec![Field::new("n", DataType::Int64, false), Field::new("s", DataType::Utf8, true)];
    SinkInput { name: "out".into(), schema: Arc::new(Schema::new(fields)), key: vec![], changelog: false }
}

fn batch(offsets: &[i64]) -> SinkBatch {
    let text = offsets.iter().map(|offset| (offset % 3 != 0).then(|| format!("row, {offset}")));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(offsets.to_vec())), Arc::new(text.collect::<StringArray>())];
    let rows = RecordBatch::try_new(input().schema, columns).unwrap();
    SinkBatch {
        partition: topic(),
        offsets: offsets.iter().map(|at| Offset(*at)).collect(),
        rows,
        operation: None,
    }
}

impl World {
    fn new(settings: &str) -> Self {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = TopicId::from_random(1, 1);
        Self { folder, state, settings: settings.into(), topic: "t", id, committed: None, now: 0 }
    }

    fn start(&self) -> Result<(Box<dyn SinkTask>, Option<Offset>)> {
        let table = parse_toml(&self.settings).unwrap();
        let config = FileSink.definition().relative_to(self.folder.path()).resolve(&table, None).unwrap();
        let mut task = FileSink.task(&config, &input()).unwrap();
        let partition = TopicPartition::new(self.topic, 0);
        let partition = SinkPartition { partition, topic_id: self.id, committed: self.committed };
        let open = SinkOpen {
            partitions: vec![partition],
            state_dir: self.state.path().join("out"),
            context: TaskContext::inline(Millis(self.now)),
        };
        let starts = block_on(task.open(open))?;
        Ok((task, starts.get(&topic()).copied()))
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    fn rows(&self) -> Vec<i64> {
        self.files().iter().flat_map(|name| read(&self.folder.path().join(name))).collect()
    }
}

fn read(path: &Path) -> Vec<i64> {
    if path.extension().is_some_and(|ending| ending == "parquet") {
        let file = fs::File::open(path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        let column = |batch: RecordBatch| {
            batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
        };
        return reader.flat_map(|batch| column(batch.unwrap())).collect();
    }
    let text = fs::read_to_string(path).unwrap();
    let number = |line: &str| match line.strip_prefix("{\"n\":") {
        Some(rest) => rest.split([',', '}']).next().unwrap().parse().ok(),
        None => line.split(',').next().unwrap().parse().ok(),
    };
    text.lines().filter_map(number).collect()
}

#[test]
fn the_three_formats() {
    for (name, expected) in [
        ("x-{seq}.csv", Some("n,s\n3,\n4,\"row, 4\"\n")),
        ("x-{seq}.ndjson", Some("{\"n\":3}\n{\"n\":4,\"s\":\"row, 4\"}\n")),
        ("x-{seq}.parquet", None),
    ] {
        let world = World::new(&format!("path = '{name}'"));
        let (mut task, start) = world.start().unwrap();
        assert_eq!(start, None);
        block_on(task.put(batch(&[3, 4]))).unwrap();
        assert_eq!(world.files(), [""; 0], "nothing appears before it is whole");
        let safe = block_on(task.finish()).unwrap();
        assert_eq!(safe[&topic()], Offset(5));
        assert_eq!(world.rows(), [3, 4]);
        let files = world.files();
        assert_eq!(files, [name.replace("{seq}", "0-00000000000000000003-00000000000000000004")]);
        if let Some(expected) = expected {
            assert_eq!(fs::read_to_string(world.folder.path().join(&files[0])).unwrap(), expected);
        }
    }
}

#[test]
fn files_roll_by_size_and_by_age() {
    let mut world = World::new("path = '{seq}.csv'\nroll = { size = '10B', age = '1m' }");
    world.now = 1_000_000;
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0, 1]))).unwrap();
    assert_eq!(world.files().len(), 1, "by size");
    assert_eq!(block_on(task.flush()).unwrap()[&topic()], Offset(2));

    let world = World::new("path = '{seq}.csv'\nroll = { age = '0s' }");
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0, 5]))).unwrap();
    assert_eq!(block_on(task.flush()).unwrap()[&topic()], Offset(6), "by age");
    assert_eq!(block_on(task.flush()).unwrap()[&topic()], Offset(6));

    let world = World::new("path = '{seq}.csv'");
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0]))).unwrap();
    assert_eq!(block_on(task.flush()).unwrap().get(&topic()), None, "neither: nothing is safe to commit");
}

#[test]
fn names_win_over_the_committed_offset_and_leftovers_go() {
    let mut world = World::new("path = 'p{partition}/{first}_{last}.csv'");
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0, 1]))).unwrap();
    block_on(task.finish()).unwrap();
    block_on(task.put(batch(&[2, 3]))).unwrap();
    drop(task); // killed: finished files are there, nothing was committed, a leftover lies around
    let leftover = world.folder.path().join(".out.t-0.tmp");
    assert!(leftover.exists());
    let (_, start) = world.start().unwrap();
    assert_eq!(start, Some(Offset(2)));
    assert!(!leftover.exists());
    fs::remove_dir_all(world.folder.path().join("p0")).unwrap();
    world.committed = Some(Offset(2));
    assert_eq!(world.start().unwrap().1, Some(Offset(2)), "a reader took the files away");
}

#[test]
fn files_of_another_log_are_refused() {
    let mut world = World::new("path = '{seq}.csv'");
    let (mut task, _) = world.start().unwrap();
    world.id = TopicId::from_random(2, 2);
    assert!(world.start().is_ok(), "an empty folder may be of any log");
    world.id = TopicId::from_random(1, 1);
    drop(world.start().unwrap());
    block_on(task.put(batch(&[0]))).unwrap();
    block_on(task.finish()).unwrap();
    assert!(world.start().is_ok());
    world.id = TopicId::from_random(2, 2);
    let refused = |world: &World| {
        let error = world.start().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("were written from another log"), "{error}");
    };
    refused(&world);
    world.committed = Some(Offset(1));
    refused(&world);
    // A reset takes the log and the note away, and the committed offsets with the log.
    (world.state, world.committed) = (tempfile::tempdir().unwrap(), None);
    refused(&world);
    world.committed = Some(Offset(1));
    assert!(world.start().is_ok(), "only the note was lost: the log knows that this sink worked on it");
    world.committed = None;
    assert_eq!(world.start().unwrap().1, Some(Offset(1)), "and it is noted again");
}

#[test]
fn another_input_under_files_that_are_there_is_refused_by_its_name() {
    let mut world = World::new("path = '{seq}.csv'");
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0]))).unwrap();
    block_on(task.finish()).unwrap();
    world.topic = "u";
    world.id = TopicId::from_random(2, 2);
    let error = world.start().map(|_| ()).unwrap_err().to_string();
    for part in [
        "its files were written from topic 't', and the sink reads 'u' now ('from' or 'topic' has changed)",
        "choose another path, or move the files away or remove them",
    ] {
        assert!(error.contains(part), "{error}");
    }
    // The note went with a reset: which of the reasons it is cannot be told.
    world.state = tempfile::tempdir().unwrap();
    let error = world.start().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("(after a reset, on another cluster, or with another 'from')"), "{error}");
}

/// Two sinks of one path: what one has written is neither replaced by the other nor taken for its progress.
#[test]
fn a_file_of_another_writer_is_never_replaced() {
    let mut world = World::new("path = '{seq}.csv'");
    let (mut task, _) = world.start().unwrap();
    let name = "0-00000000000000000000-00000000000000000001.csv";
    let file = world.folder.path().join(name);
    fs::write(&file, "of another").unwrap();
    block_on(task.put(batch(&[0, 1]))).unwrap();
    let error = block_on(task.finish()).unwrap_err();
    assert!(
        !error.is_retriable() && error.to_string().contains("a file with other rows has this name"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "of another");
    for _ in 0..2 {
        let error = world.start().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("a file with other rows has this name"), "{error}");
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(world.start().unwrap().1, None, "nothing was taken for progress");
    // Where names differ, offsets tell: a file of our own beside one that begins within it.
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0, 1]))).unwrap();
    world.committed = block_on(task.finish()).unwrap().get(&topic()).copied();
    fs::write(world.folder.path().join("0-00000000000000000001-00000000000000000009.csv"), "of another")
        .unwrap();
    let error = world.start().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("hold the same offsets, so another sink writes to the same path"), "{error}");
}

/// A call that nobody waits for any more may finish a file behind the back of the next task.
#[test]
fn the_same_file_once_more_is_no_other_writer() {
    let world = World::new("path = '{seq}.ndjson'");
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0, 1]))).unwrap();
    let name = "0-00000000000000000000-00000000000000000001.ndjson";
    fs::write(world.folder.path().join(name), "{\"n\":0}\n{\"n\":1,\"s\":\"row, 1\"}\n").unwrap();
    assert_eq!(block_on(task.finish()).unwrap()[&topic()], Offset(2));
    assert_eq!(world.rows(), [0, 1]);
    assert!(!world.folder.path().join(".out.t-0.tmp").exists());
}

#[test]
fn only_final_files_are_left_in_the_folder() {
    let world = World::new("path = 'x/{seq}.parquet'");
    let (mut task, _) = world.start().unwrap();
    block_on(task.put(batch(&[0, 1]))).unwrap();
    block_on(task.finish()).unwrap();
    block_on(task.close());
    let names = |folder: &Path| -> Vec<_> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(world.folder.path()), ["x"]);
    let file = "0-00000000000000000000-00000000000000000001.parquet";
    assert_eq!(names(&world.folder.path().join("x")), [file]);
}

#[test]
fn killed_between_any_two_calls_every_row_is_there_once_and_in_order() {
    let expected: Vec<i64> = (0..50).filter(|at| at % 5 != 4).collect(); // 5n+4 are markers
    for format in ["csv", "ndjson", "parquet"] {
        for every in 1..14 {
            let mut world = World::new(&format!("path = '{{seq}}.{format}'\nroll = {{ size = '60B' }}"));
            let drained = (0..100).any(|life| live(&mut world, every + life % 7, &expected));
            assert!(drained);
            assert_eq!(world.rows(), expected, "{format}, killed after {every} calls or a few more");
        }
    }
}

/// One life of the sink, killed after some puts; true when it drained its input.
fn live(world: &mut World, puts: usize, input: &[i64]) -> bool {
    let (mut task, start) = world.start().unwrap();
    let start = start.map_or(0, |offset| offset.0);
    let unread: Vec<_> = input.iter().copied().filter(|at| *at >= start).collect();
    for (call, offsets) in unread.chunks(4).enumerate().take(puts) {
        block_on(task.put(batch(offsets))).unwrap();
        if call % 3 == 2 {
            world.committed = block_on(task.flush()).unwrap().get(&topic()).copied();
        }
        if call % 5 == 4 {
            block_on(task.finish()).unwrap(); // the kill comes before the commit
        }
    }
    let drained = unread.len() <= puts * 4;
    if drained {
        world.committed = block_on(task.finish()).unwrap().get(&topic()).copied();
    }
    drained
}
