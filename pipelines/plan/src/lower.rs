//! From a [`Plan`] to the topology that the streams runtime runs.
//!
//! Rows of a table go into a store; each step is its stages in order; rows that a sink reads go to a topic. Where rows that
//! must meet are not together, a repartition stands between. One partition holds every key, so there none is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use millstream_streams_core::kernel::{
    Emit, KeyAggregate, LATE_PORT, StreamTableJoin, TableUpsert, WindowAggregate, WindowOptions,
};
use millstream_streams_core::rule::TimeWindows;
use millstream_streams_core::{
    OperatorSpec, Port, SinkSpec, SourceSpec, StoreSpec, StreamsError, Topology, TopologyBuilder,
};

use crate::operator::{
    AggregateFold, KeyedRows, NewTime, RowReader, RowWriter, SelectRows, TableLookup, TakeColumns,
    unique_names, with_bad_input,
};
use crate::plan::{BadInput, Plan, SinkKind, Source, SourceKind, Step};
use crate::sql::{Aggregate, GroupColumn, Join, Query, Scan, ScanColumn, Select, Stage};

/// A plan, ready to run.
#[derive(Debug)]
pub struct Lowered {
    /// What the streams runtime runs; none when sinks read sources only.
    pub topology: Option<Topology>,
    /// The nodes of the topology that each step became, first to last.
    pub nodes: BTreeMap<String, Vec<Arc<str>>>,
    /// Steps whose rows come from several partitions and get a time that is not the one by which their source is in order: what
    /// is late there depends on which partition was read faster.
    pub unordered: BTreeSet<String>,
}

/// Lowers `plan`; `partitions` tells how many partitions a topic has, where that is known already.
///
/// # Errors
/// [`StreamsError::Topology`] with what cannot run: types that cannot be kept in state.
pub fn lower(plan: &Plan, partitions: &dyn Fn(&str) -> Option<i32>) -> Result<Lowered, StreamsError> {
    let mut lowering = Lowering {
        plan,
        partitions,
        builder: TopologyBuilder::new(),
        ports: BTreeMap::new(),
        tables: BTreeMap::new(),
        nodes: BTreeMap::new(),
        unordered: BTreeSet::new(),
        used: used_columns(plan),
    };
    for step in &plan.steps {
        lowering.step(step);
    }
    lowering.topic_sinks();
    let topology = match lowering.ports.is_empty() {
        true => None,
        false => Some(lowering.builder.build()?),
    };
    Ok(Lowered { topology, nodes: lowering.nodes, unordered: lowering.unordered })
}

struct Lowering<'a> {
    plan: &'a Plan,
    partitions: &'a dyn Fn(&str) -> Option<i32>,
    builder: TopologyBuilder,
    /// Relations that are in the topology.
    ports: BTreeMap<String, Relation>,
    /// Stores of tables, by relation.
    tables: BTreeMap<String, Arc<str>>,
    nodes: BTreeMap<String, Vec<Arc<str>>>,
    unordered: BTreeSet<String>,
    used: BTreeMap<String, BTreeSet<usize>>,
}

/// A relation in the topology.
#[derive(Clone)]
struct Relation {
    port: Port,
    /// How many partitions its rows are spread over.
    partitions: i32,
    /// Whether rows of several partitions have met on the way.
    met: bool,
    /// Columns whose instants have to do with the time of rows, by position.
    times: BTreeMap<usize, NewTime>,
    /// Columns that stand where a window's bounds will be, by position.
    bounds: BTreeSet<usize>,
}

impl Relation {
    /// Gives rows the time that `scan` says: what that has to do with the time they had.
    fn scan(&mut self, scan: &Scan) -> NewTime {
        let new_time =
            scan.time.map_or(NewTime::Same, |at| self.times.get(&at).copied().unwrap_or(NewTime::Other));
        if let Some(own) = scan.time
            && new_time != NewTime::Same
        {
            // From this bound of a window the other one is as far as ever; of other columns nothing is known any more.
            let shift = |time: NewTime| match (time, new_time) {
                (NewTime::Bound(ms), NewTime::Bound(by)) => Some(NewTime::Bound(ms - by)),
                _ => None,
            };
            self.times = self.times.iter().filter_map(|(at, time)| Some((*at, shift(*time)?))).collect();
            self.times.insert(own, NewTime::Same);
        }
        self.keep(scan.columns.iter().map(|column| match column {
            ScanColumn::Relation(at) => Some(*at),
            ScanColumn::WindowBound => None,
        }));
        let columns = scan.columns.iter().enumerate();
        self.bounds =
            columns.filter(|(_, column)| **column == ScanColumn::WindowBound).map(|(at, _)| at).collect();
        new_time
    }

    /// The relation has other columns now, some of which are columns that it had.
    fn keep(&mut self, columns: impl Iterator<Item = Option<usize>>) {
        let columns: Vec<(usize, usize)> =
            columns.enumerate().filter_map(|(at, column)| Some((at, column?))).collect();
        let is_bound = |(_, column): &&(usize, usize)| self.bounds.contains(column);
        self.bounds = columns.iter().filter(is_bound).map(|(at, _)| *at).collect();
        let time = |(at, column): &(usize, usize)| Some((*at, *self.times.get(column)?));
        self.times = columns.iter().filter_map(time).collect();
    }

    fn select(&mut self, select: &Select) {
        if let Some(columns) = &select.columns {
            let column = |expr: &Arc<dyn PhysicalExpr>| Some(expr.downcast_ref::<Column>()?.index());
            self.keep(columns.iter().map(column));
        }
    }

    fn aggregate(&mut self, aggregate: &Aggregate) {
        let bound = |windows: TimeWindows, group: &GroupColumn| match group {
            GroupColumn::WindowStart => Some(NewTime::Bound(0)),
            GroupColumn::WindowEnd => Some(NewTime::Bound(windows.size_ms())),
            GroupColumn::Value(_) => None,
        };
        let groups = aggregate.groups.iter().enumerate();
        self.times = groups.filter_map(|(at, group)| Some((at, bound(aggregate.windows?, group)?))).collect();
        self.bounds.clear();
    }
}

impl Lowering<'_> {
    fn step(&mut self, step: &Step) {
        let Some(mut relation) = self.relation(&step.query.from) else { return };
        let (scan, mut stages) = (self.pruned_scan(&step.query), step.query.stages.iter().peekable());
        let select = stages.next_if(|stage| matches!(stage, Stage::Select(_))).and_then(select_of);
        let mut schema =
            select.as_ref().map_or_else(|| Arc::clone(&scan.schema), |select| Arc::clone(&select.schema));
        let new_time = relation.scan(&step.query.scan);
        if relation.met && new_time == NewTime::Other {
            self.unordered.insert(step.name.clone());
        }
        select.iter().for_each(|select| relation.select(select));
        relation.port = self.select(step, Some(scan), select, new_time, relation.port);
        for stage in stages {
            match stage {
                Stage::Select(select) => {
                    relation.select(select);
                    relation.port =
                        self.select(step, None, Some(select.clone()), NewTime::Same, relation.port);
                    schema = Arc::clone(&select.schema);
                }
                Stage::Join(join) => {
                    let Some(joined) = self.join(step, join, relation, &schema) else { return };
                    relation = joined;
                    schema = Arc::clone(&join.schema);
                }
                Stage::Aggregate(aggregate) => {
                    let Some(grouped) = self.aggregate(step, aggregate, relation, &schema) else { return };
                    relation = grouped;
                    schema = Arc::clone(&aggregate.schema);
                }
            }
        }
        if let Some(topic) = &step.topic {
            self.sink(&step.name, topic, &schema, &step.query.key, relation.port);
        }
        self.ports.insert(step.name.clone(), relation);
    }

    fn node(&mut self, step: &Step, what: &str) -> Arc<str> {
        let name = self.builder.free_name(&format!("{}.{what}", step.name));
        self.nodes.entry(step.name.clone()).or_default().push(Arc::clone(&name));
        name
    }

    fn select(
        &mut self,
        step: &Step,
        scan: Option<Scan>,
        select: Option<Select>,
        new_time: NewTime,
        input: Port,
    ) -> Port {
        let name = self.node(step, "select");
        let spec =
            OperatorSpec::new("select", move || SelectRows::new(scan.clone(), select.clone(), new_time));
        self.builder.operator(name, spec, &[input])
    }

    fn join(&mut self, step: &Step, join: &Join, input: Relation, schema: &SchemaRef) -> Option<Relation> {
        let source = self.source(&join.table)?;
        let store = self.table(&source)?;
        let partitions = self.partitions_of(&source);
        let together = input.partitions == 1 && partitions == 1;
        let input = match together {
            true => input,
            false => self.repartition(
                step,
                &format!("by-{}", join.table),
                &join.keys,
                Some(partitions),
                input,
                schema,
            ),
        };
        let name = self.node(step, &format!("join-{}", join.table));
        let (join, table) = (join.clone(), Arc::clone(&source.table.schema));
        let kind = join.kind;
        let spec =
            OperatorSpec::new("join", move || StreamTableJoin::new(TableLookup::new(&join, &table), kind));
        let port = self.builder.operator(name, spec.store(store), &[input.port]);
        self.builder.joins_by_key(port);
        Some(Relation { port, partitions, ..input })
    }

    fn aggregate(
        &mut self,
        step: &Step,
        aggregate: &Aggregate,
        input: Relation,
        schema: &SchemaRef,
    ) -> Option<Relation> {
        if let Err(reason) = AggregateFold::new(aggregate) {
            self.builder.problem(format!("step '{}': {reason}", step.name));
            return None;
        }
        let values: Vec<_> = aggregate.groups.iter().filter_map(value_of).collect();
        let input = match input.partitions == 1 {
            true => input,
            // Groups of the window alone are all in one place.
            false if values.is_empty() => self.repartition(step, "together", &values, Some(1), input, schema),
            false => self.repartition(step, "by-group", &values, None, input, schema),
        };
        let name = self.node(step, "group");
        let store: Arc<str> = step.name.as_str().into();
        self.builder.add_store(StoreSpec::new(Arc::clone(&store)));
        let fold = {
            let aggregate = aggregate.clone();
            move || AggregateFold::new(&aggregate).expect("the same aggregate made a fold above")
        };
        let spec = match aggregate.windows {
            Some(windows) => {
                let grace_ms =
                    i64::try_from(step.lateness.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
                let options = WindowOptions { windows, grace_ms, emit: Emit::OnClose };
                OperatorSpec::new("group by window", move || WindowAggregate::new(fold(), options))
            }
            None => OperatorSpec::new("group", move || KeyAggregate::new(fold())),
        };
        let port = self.builder.operator(name, spec.store(store), &[input.port]);
        if aggregate.windows.is_some() {
            self.late(step, schema, &input.bounds, port);
        }
        let mut grouped = Relation { port, ..input };
        grouped.aggregate(aggregate);
        Some(grouped)
    }

    /// Late rows as they would have been grouped, without the bounds of windows that they are not in.
    fn late(&mut self, step: &Step, schema: &SchemaRef, bounds: &BTreeSet<usize>, grouped: Port) {
        let own: Vec<usize> = (0..schema.fields().len()).filter(|at| !bounds.contains(at)).collect();
        let Ok(kept) = schema.project(&own) else { return };
        let name = self.builder.free_name(&format!("{}.late-rows", step.name));
        let spec = OperatorSpec::new("late rows", move || TakeColumns::new(own.clone()));
        let port = self.builder.operator(name, spec, &[grouped.side(LATE_PORT)]);
        let topic = self.plan.late_topic(&step.name);
        self.sink(&format!("{}.late", step.name), &topic, &Arc::new(kept), &[], port);
    }

    fn repartition(
        &mut self,
        step: &Step,
        why: &str,
        key: &[Arc<dyn PhysicalExpr>],
        partitions: Option<i32>,
        input: Relation,
        schema: &SchemaRef,
    ) -> Relation {
        let written = unique_names(schema);
        let writer = RowWriter::new(Arc::clone(&written), key.to_vec()).internal();
        let reader = RowReader::written(written);
        let name = format!("{}-{why}", step.name);
        let port = self.builder.repartition(
            &name,
            move || writer.clone(),
            move || reader.clone(),
            partitions,
            input.port,
        );
        let mut behind = Relation { port, partitions: partitions.unwrap_or(input.partitions), ..input };
        behind.met |= input.partitions > 1;
        if !behind.met {
            // One task writes, so nothing is told but its rows: of results of windows still to come these say nothing.
            behind.times.retain(|_, time| *time == NewTime::Same);
        }
        behind
    }

    /// A relation, brought into the topology when it is a source that nobody has read so far.
    fn relation(&mut self, name: &str) -> Option<Relation> {
        if let Some(relation) = self.ports.get(name) {
            return Some(relation.clone());
        }
        let source = self.source(name)?;
        let schema = self.pruned(&source);
        let time = source.time.as_ref().and_then(|time| self.position(name, time.column));
        let reader = RowReader::stream(schema, time);
        let spec = SourceSpec::new([source.topic.as_str()], move || reader.clone());
        let port = self.input(&source, spec);
        let times = source.time.iter().map(|time| (time.column, NewTime::Same)).collect();
        let partitions = self.partitions_of(&source);
        let relation = Relation { port, partitions, met: false, times, bounds: BTreeSet::new() };
        self.ports.insert(name.to_owned(), relation.clone());
        Some(relation)
    }

    /// A source. Its records are those that others wrote, or a connector, whose records are rows.
    fn input(&mut self, source: &Source, spec: SourceSpec) -> Port {
        let port = self.builder.source(Arc::clone(&source.table.name), with_bad_input(spec, source));
        if let (SourceKind::Topic { .. }, BadInput::Topic(topic)) = (&source.kind, &source.on_error) {
            let schema = millstream_connect_api::bad_record_schema();
            self.sink(
                &format!("{}.bad", source.table.name),
                topic,
                &schema,
                &[],
                port.side(SourceSpec::BAD_PORT),
            );
        }
        port
    }

    /// The store of a table; its rows are read to their end before the first row of a stream.
    fn table(&mut self, source: &Source) -> Option<Arc<str>> {
        let name = &source.table.name;
        if let Some(store) = self.tables.get(&**name) {
            return Some(Arc::clone(store));
        }
        let schema = Arc::clone(&source.table.schema);
        let key: Vec<usize> =
            source.table.key.iter().map(|column| schema.index_of(column).ok()).collect::<Option<_>>()?;
        let reader =
            RowReader::table(Arc::clone(&schema), source.time.as_ref().map(|time| time.column), key.clone());
        let spec = SourceSpec::new([source.topic.as_str()], move || reader.clone()).bootstrap();
        let port = self.input(source, spec);
        let store: Arc<str> = format!("{name}-table").into();
        self.builder.add_store(StoreSpec::new(Arc::clone(&store)));
        let rows = move || KeyedRows::new(Arc::clone(&schema), key.clone());
        let spec = OperatorSpec::new("table", move || TableUpsert::new(rows()));
        self.builder.operator(format!("{name}.table"), spec.store(Arc::clone(&store)), &[port]);
        self.tables.insert(name.to_string(), Arc::clone(&store));
        Some(store)
    }

    fn topic_sinks(&mut self) {
        let plan = self.plan;
        for sink in &plan.sinks {
            let (SinkKind::Topic { topic, key }, Some(from)) = (&sink.kind, &sink.from) else { continue };
            let Some(relation) = self.relation(from) else { continue };
            self.sink(&sink.name, topic, &sink.input.schema, key, relation.port);
        }
    }

    fn sink(&mut self, name: &str, topic: &str, schema: &SchemaRef, key: &[String], input: Port) {
        let key = key.iter().filter_map(|column| {
            let at = schema.index_of(column).ok()?;
            Some(Arc::new(Column::new(column, at)) as Arc<dyn PhysicalExpr>)
        });
        let writer = RowWriter::new(unique_names(schema), key.collect());
        let name = self.builder.free_name(&format!("{name}.out"));
        self.builder.sink(name, SinkSpec::new(topic, move || writer.clone()), input);
    }

    fn source(&self, name: &str) -> Option<Source> {
        self.plan.sources.iter().find(|source| &*source.table.name == name).cloned()
    }

    fn partitions_of(&self, source: &Source) -> i32 {
        (self.partitions)(&source.topic).unwrap_or(source.partitions)
    }

    /// The columns of a source that somebody uses.
    fn pruned(&self, source: &Source) -> SchemaRef {
        let all = &source.table.schema;
        let used = self.used.get(&*source.table.name).into_iter().flatten();
        let fields: Vec<_> = used.filter_map(|&at| all.fields().get(at).cloned()).collect();
        Arc::new(Schema::new(fields))
    }

    /// Where a column of a relation stands among those that are read.
    fn position(&self, relation: &str, column: usize) -> Option<usize> {
        match self.used.get(relation) {
            Some(used) => used.iter().position(|&at| at == column),
            None => Some(column),
        }
    }

    fn pruned_scan(&self, query: &Query) -> Scan {
        let columns = query.scan.columns.iter().map(|column| match column {
            ScanColumn::Relation(at) => ScanColumn::Relation(self.position(&query.from, *at).unwrap_or(*at)),
            ScanColumn::WindowBound => ScanColumn::WindowBound,
        });
        Scan {
            columns: columns.collect(),
            time: query.scan.time.and_then(|at| self.position(&query.from, at)),
            schema: Arc::clone(&query.scan.schema),
        }
    }
}

/// The columns of each source that steps and topic sinks use. Steps are not in it: their columns are made anyway.
fn used_columns(plan: &Plan) -> BTreeMap<String, BTreeSet<usize>> {
    let mut used: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for source in &plan.sources {
        let columns = used.entry(source.table.name.to_string()).or_default();
        columns.extend(source.time.as_ref().map(|time| time.column));
        let whole = plan.sinks.iter().any(|sink| {
            matches!(sink.kind, SinkKind::Topic { .. }) && sink.from.as_deref() == Some(&*source.table.name)
        });
        if whole {
            columns.extend(0..source.table.schema.fields().len());
        }
    }
    for step in &plan.steps {
        let Some(columns) = used.get_mut(&step.query.from) else { continue };
        columns.extend(step.query.scan.time);
        columns.extend(step.query.scan.columns.iter().filter_map(|column| match column {
            ScanColumn::Relation(at) => Some(*at),
            ScanColumn::WindowBound => None,
        }));
    }
    used
}

fn select_of(stage: &Stage) -> Option<Select> {
    match stage {
        Stage::Select(select) => Some(select.clone()),
        Stage::Join(_) | Stage::Aggregate(_) => None,
    }
}

fn value_of(group: &GroupColumn) -> Option<Arc<dyn PhysicalExpr>> {
    match group {
        GroupColumn::Value(expr) => Some(Arc::clone(expr)),
        GroupColumn::WindowStart | GroupColumn::WindowEnd => None,
    }
}
