//! A worker: one member of the group, with its tasks.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::{
    Client, ClientError, Consumer, ConsumerConfig, ConsumerHandle, IsolationLevel, OffsetReset,
    RebalanceListener,
};
use millstream_env::Env;
use millstream_protocol::ErrorCode;
use millstream_record::{TopicPartition, Uuid};
use tokio::sync::Mutex;

use crate::assignor::TaskAssignor;
use crate::cleanup::Tenancy;
use crate::config::StreamsConfig;
use crate::control::StreamsControl;
use crate::ends::Ends;
use crate::engine::Engine;
use crate::error::{AppError, Result};
use crate::layout::Layout;
use crate::missing::InputWatch;
use crate::purge::Purge;
use crate::state::StateDir;

/// What the workers of an application share.
pub(crate) struct Shared {
    pub(crate) layout: Arc<Layout>,
    pub(crate) config: StreamsConfig,
    pub(crate) env: Env,
    /// For everything but producers.
    pub(crate) client: Client,
    /// For producers.
    pub(crate) writing: Client,
    pub(crate) state: StateDir,
    pub(crate) tenancy: Tenancy,
    pub(crate) process: Uuid,
    pub(crate) control: StreamsControl,
}

/// A poll that finds nothing waits so long at most, so that stops and ends are noticed.
const IDLE_POLL: Duration = Duration::from_millis(50);
/// Tasks work for so long before the worker commits if that is due, and polls: less would be all commits, more would leave a stop or
/// a rebalance waiting.
const LEAST_TURN: Duration = Duration::from_millis(10);
const LONGEST_TURN: Duration = Duration::from_millis(500);
/// Time between two looks at the group's ends while tasks wait for them.
const ASK_ENDS_EVERY: Duration = Duration::from_millis(200);

/// A session outlives this many missed heartbeats, less one.
const HEARTBEATS_PER_SESSION: i32 = 4;
/// Failures in a row, without a commit between them, that a worker bears; with the next one it gives up.
const MAX_FAILURES: u32 = 10;
const FAILURE_PAUSE: Duration = Duration::from_millis(200);

/// One member of the group.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    number: usize,
    consumer: Consumer,
    engine: Arc<Mutex<Engine>>,
    last_commit: Duration,
    last_ask: Duration,
    inputs: InputWatch,
    purge: Purge,
    busy: bool,
    /// Failures since the last commit that succeeded.
    failures: u32,
}

/// What a round came to.
enum Turn {
    Working,
    Stopped,
    Drained,
}

impl Worker {
    /// Joins the group.
    pub(crate) async fn start(shared: Arc<Shared>, number: usize) -> Result<Self> {
        let engine = Arc::new(Mutex::new(Engine::new(Arc::clone(&shared), number).await?));
        let assignor = TaskAssignor::new(Arc::clone(&shared.layout), shared.process, shared.state.clone());
        let mut consumer = shared.client.consumer(ConsumerConfig {
            auto_offset_reset: OffsetReset::Earliest,
            isolation_level: IsolationLevel::ReadCommitted,
            max_poll_records: shared.config.max_poll_records,
            session_timeout_ms: shared.config.session_timeout_ms,
            heartbeat_interval_ms: u64::try_from(shared.config.session_timeout_ms / HEARTBEATS_PER_SESSION)
                .unwrap_or(1),
            // After a crash the same member comes back at once, instead of waiting until its session ends (KIP-345).
            group_instance_id: Some(format!("{}-{number}", shared.process).into()),
            leave_group_on_close: true,
            assignors: vec![Arc::new(assignor)],
            ..ConsumerConfig::group(shared.config.application_id.as_str())
        })?;
        let listener = Listener { engine: Arc::clone(&engine) };
        consumer.subscribe(shared.layout.input_topics().cloned(), Some(Box::new(listener)))?;
        let (now, purge) = (shared.env.elapsed(), Purge::new(&shared));
        Ok(Self {
            shared,
            number,
            consumer,
            engine,
            last_commit: now,
            last_ask: now,
            inputs: InputWatch::default(),
            purge,
            busy: false,
            failures: 0,
        })
    }

    /// Works until the application is stopped (false) or has drained (true).
    pub(crate) async fn run(mut self) -> Result<bool> {
        let drained = loop {
            match self.turn().await {
                Ok(Turn::Working) => {}
                Ok(Turn::Stopped) => break false,
                Ok(Turn::Drained) => break true,
                Err(AppError::Client(error)) if is_recoverable(&error) => self.start_over(&error).await?,
                Err(error) => {
                    self.engine.lock().await.abandon().await;
                    return Err(self.named(error));
                }
            }
        };
        self.consumer.close().await?;
        self.engine.lock().await.close().await?;
        Ok(drained)
    }

    /// One round: poll, process, and commit when it is time.
    async fn turn(&mut self) -> Result<Turn> {
        if self.busy {
            give_way().await;
        }
        let stopping = self.shared.control.is_stopping();
        let batches = self.consumer.poll(if self.busy { Duration::ZERO } else { IDLE_POLL }).await?;
        let engine = Arc::clone(&self.engine);
        let mut engine = engine.lock().await;
        engine.ensure_producer().await?;
        engine.add(batches)?;
        if !self.inputs.is_one_missing(&self.shared, engine.is_waiting()).await? {
            engine.start_waiting(&self.consumer).await?; // after add, which has no task for their records: it seeks back to what is committed
        }
        let ends = self.ask_ends().await?;
        engine.tell_ends(ends.as_ref())?;
        let interval = Duration::from_millis(self.shared.config.commit_interval_ms);
        let now = self.shared.env.elapsed();
        let until = (self.last_commit + interval).clamp(now + LEAST_TURN, now + LONGEST_TURN);
        self.busy = engine.process(until).await? || engine.is_starting();
        let now = self.shared.env.elapsed();
        if stopping || engine.is_commit_due() || now.saturating_sub(self.last_commit) >= interval {
            if engine.commit(&self.consumer).await? {
                self.failures = 0; // a commit of nothing proves nothing
                self.purge.committed(&self.shared, self.consumer.handle());
            }
            self.last_commit = self.shared.env.elapsed(); // else slow commits would follow each other, with a poll's rows each
        }
        let (full, free) = engine.pressure();
        self.consumer.pause(&full)?;
        self.consumer.resume(&free)?;
        Ok(match ends {
            _ if stopping => Turn::Stopped,
            Some(ends) if engine.is_done() && ends.all_ended(&self.shared) => Turn::Drained,
            _ => Turn::Working,
        })
    }

    /// What the group says about ends, now and then, where inputs are finite.
    async fn ask_ends(&mut self) -> Result<Option<Ends>> {
        let now = self.shared.env.elapsed();
        let wanted = !self.shared.config.finite_inputs.is_empty() && !self.busy;
        if !wanted || now.saturating_sub(self.last_ask) < ASK_ENDS_EVERY {
            return Ok(None);
        }
        self.last_ask = now;
        Ends::ask(&self.shared, &self.shared.client.admin()).await.map(Some)
    }

    /// What an error says to the user, where the client cannot know it.
    fn named(&self, error: AppError) -> AppError {
        match error {
            AppError::Client(error) if error.code() == Some(ErrorCode::FencedInstanceId) => AppError::Twin {
                application: self.shared.config.application_id.clone(),
                state_dir: self.shared.config.state_dir.clone(),
            },
            other => other,
        }
    }

    /// The epoch failed: aborts it, and starts the tasks again from what is committed, with another producer where this one is done for.
    /// A worker that fell behind its group is none the wiser: its commits are refused, since they name its generation.
    async fn start_over(&mut self, error: &ClientError) -> Result<()> {
        self.failures += 1;
        let mut engine = self.engine.lock().await;
        engine.abandon().await;
        if self.failures > MAX_FAILURES {
            return Err(AppError::GaveUp { failures: self.failures, last: error.clone() });
        }
        tracing::warn!(worker = self.number, %error, "the epoch failed; going back to the last commit");
        if error.is_fatal() {
            engine.give_up_producer();
        }
        let owned: Vec<_> = self.consumer.assignment().into_iter().collect();
        engine.assign(&owned);
        drop(engine);
        self.busy = false;
        self.shared.env.sleep(FAILURE_PAUSE).await;
        Ok(())
    }
}

/// Lets other tasks of this thread go on, heartbeats among them: nothing else in a busy turn may have to wait.
async fn give_way() {
    let mut went = false;
    let once = futures::future::poll_fn(|context| {
        if std::mem::replace(&mut went, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    });
    once.await;
}

/// Whether going back to the last commit may help. It does not where a record itself was refused, since the same rows make it again.
fn is_recoverable(error: &ClientError) -> bool {
    match error {
        ClientError::AbortRequired { cause } => !is_refusal(cause),
        ClientError::CommitRefused { .. } => !is_refusal(error),
        // The broker aborted a transaction that took too long, or forgot the name of a producer that did nothing for long, or a twin
        // took the name over. In the last case the group tells, at the next heartbeat or commit, which of the two is to go.
        ClientError::Fenced { .. } => true,
        ClientError::Fatal { cause } => matches!(
            cause.code(),
            Some(
                ErrorCode::ProducerFenced
                    | ErrorCode::InvalidProducerEpoch
                    | ErrorCode::InvalidProducerIdMapping
                    | ErrorCode::UnknownProducerId
                    | ErrorCode::InvalidTxnState
            )
        ),
        _ => error.is_retriable(),
    }
}

/// Whether the same request would be refused for ever.
fn is_refusal(error: &ClientError) -> bool {
    match error {
        ClientError::RecordTooLarge { .. }
        | ClientError::Record { .. }
        | ClientError::NoSuchPartition { .. } => true,
        ClientError::TimedOut { last: Some(last), .. } => is_refusal(last),
        _ => matches!(
            error.code(),
            Some(
                ErrorCode::MessageTooLarge
                    | ErrorCode::RecordListTooLarge
                    | ErrorCode::InvalidRecord
                    | ErrorCode::InvalidTimestamp
                    | ErrorCode::UnsupportedCompressionType
                    | ErrorCode::UnsupportedForMessageFormat
                    | ErrorCode::InvalidTopicException
                    | ErrorCode::InvalidRequiredAcks
                    | ErrorCode::PolicyViolation
                    | ErrorCode::FencedInstanceId
                    | ErrorCode::TopicAuthorizationFailed
                    | ErrorCode::GroupAuthorizationFailed
                    | ErrorCode::ClusterAuthorizationFailed
                    | ErrorCode::TransactionalIdAuthorizationFailed
            )
        ),
    }
}

/// Keeps the tasks in step with what the group assigns.
struct Listener {
    engine: Arc<Mutex<Engine>>,
}

impl RebalanceListener for Listener {
    fn revoked<'a>(&'a mut self, consumer: &'a ConsumerHandle, _: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        async move {
            let mut engine = self.engine.lock().await;
            if let Err(error) = engine.commit(consumer).await {
                tracing::warn!(%error, "the last commit before a rebalance failed; its rows will be processed again");
            }
            engine.abandon().await;
        }
        .boxed()
    }

    fn assigned<'a>(
        &'a mut self,
        _: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        async move { self.engine.lock().await.assign(partitions) }.boxed()
    }

    fn lost<'a>(&'a mut self, _: &'a ConsumerHandle, _: &'a [TopicPartition]) -> BoxFuture<'a, ()> {
        async move { self.engine.lock().await.abandon().await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_producer_may_mend_is_tried_again_and_what_it_cannot_ends_the_worker() {
        let broker = |code| ClientError::Broker { api: "EndTxn", subject: "app".into(), code, detail: None };
        let fatal = |code| ClientError::Fatal { cause: Arc::new(broker(code)) };
        let abort = |code| ClientError::AbortRequired { cause: Arc::new(broker(code)) };
        let refused = |code| ClientError::CommitRefused { group: "app".into(), code };
        for (error, expected) in [
            (ClientError::Fenced { who: "app".into() }, true),
            (fatal(ErrorCode::InvalidProducerIdMapping), true),
            (fatal(ErrorCode::InvalidTxnState), true),
            (fatal(ErrorCode::TransactionalIdAuthorizationFailed), false),
            (fatal(ErrorCode::UnsupportedVersion), false),
            (abort(ErrorCode::InvalidProducerEpoch), true),
            (abort(ErrorCode::MessageTooLarge), false),
            (refused(ErrorCode::IllegalGeneration), true),
            (refused(ErrorCode::FencedInstanceId), false),
            (broker(ErrorCode::NotCoordinator), true),
            (broker(ErrorCode::FencedInstanceId), false),
        ] {
            assert_eq!(is_recoverable(&error), expected, "{error}");
        }
    }
}
