//! Whether a transactional batch belongs to its open transaction: asked of the transaction's coordinator before the first batch
//! of a transaction in a partition is appended (KIP-890), so that no late batch opens one that nobody will end.
//!
//! The coordinator is here, and is asked at once, or it is another broker: then what waits for the answer keeps its place, and so
//! does what the producer sends after it. Nothing is locked meanwhile; a guard of the partition tells, when the answer comes,
//! whether the transaction has ended since. What is to be asked of one broker while a request is under way goes with the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use millstream_env::TaskGroup;
use millstream_machine::transaction::Verdict;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use millstream_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use millstream_record::{NodeId, ProducerEpoch, ProducerId, TopicId, TopicPartition};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::coordinator::Transactions;
use crate::partition::{Guard, Partition, Word};
use crate::peers::Peers;

/// How long a coordinator may take to answer. It needs no disk for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Partitions that one request asks for.
const CHECKS_PER_REQUEST: usize = 1000;

/// Who says that a transaction is theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) transactional_id: ByteString,
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
}

/// What is done once it is known on whose word, or why not.
type Work = Box<dyn FnOnce(Result<Word, ErrorCode>) + Send>;

/// Asks coordinators, and keeps in order what waits for them.
pub(crate) struct Verification {
    transactions: Arc<Transactions>,
    peers: Peers,
    tasks: TaskGroup,
    /// What waits for an answer: bounded by what connections may have in flight.
    lines: Mutex<FxHashMap<Place, VecDeque<Waiting>>>,
    /// What is to be asked of each broker; an entry as long as somebody asks it.
    questions: Mutex<BTreeMap<NodeId, VecDeque<Question>>>,
}

/// A producer in a partition.
type Place = (TopicId, i32, ProducerId);

struct Waiting {
    claim: Claim,
    work: Work,
}

/// What is asked on behalf of the first in a line.
struct Question {
    claim: Claim,
    partition: Arc<Partition>,
    /// None once the partition is led elsewhere.
    guard: Option<Guard>,
}

/// The coordinator's word: the epoch that it is led in, where that is known.
type Answer = Result<Option<i32>, ErrorCode>;

enum Coordinator {
    /// Here, and it has answered.
    Here(Answer),
    At(NodeId),
}

impl Verification {
    pub(crate) fn new(transactions: Arc<Transactions>, peers: Peers, tasks: TaskGroup) -> Arc<Self> {
        let (lines, questions) = (Mutex::default(), Mutex::default());
        Arc::new(Self { transactions, peers, tasks, lines, questions })
    }

    /// Has `work` done once it is known whether `partition` is in the transaction: before this returns where that is known here,
    /// and behind all that the producer has waiting for this partition.
    pub(crate) fn admit(
        self: &Arc<Self>,
        claim: Claim,
        partition: &Arc<Partition>,
        work: impl FnOnce(Result<Word, ErrorCode>) + Send + 'static,
    ) {
        let place = (partition.topic_id(), partition.at().partition, claim.producer_id);
        if let Some(line) = self.lines.lock().get_mut(&place) {
            line.push_back(Waiting { claim, work: Box::new(work) });
            return;
        }
        if partition.has_open_transaction(claim.producer_id, claim.producer_epoch) {
            return work(Ok(Word::Continues));
        }
        let guard = match partition.guard(claim.producer_id) {
            Ok(guard) => guard,
            Err(refusal) => return work(Err(refusal.code)),
        };
        let question = Question { claim, partition: Arc::clone(partition), guard: Some(guard) };
        match self.coordinator(&question) {
            Coordinator::Here(answer) => {
                work(question.word(answer));
                question.release();
            }
            Coordinator::At(node) => {
                let waiting = Waiting { claim: question.claim.clone(), work: Box::new(work) };
                self.lines.lock().entry(place).or_default().push_back(waiting);
                self.ask(node, question);
            }
        }
    }

    /// Who knows the answer.
    fn coordinator(&self, question: &Question) -> Coordinator {
        let Claim { transactional_id, producer_id, producer_epoch } = &question.claim;
        let code = match self.transactions.host_of(transactional_id) {
            Ok(host) => {
                let at = question.partition.at();
                let verdict =
                    host.with(|machine| machine.verify(transactional_id, *producer_id, *producer_epoch, at));
                return Coordinator::Here(match verdict {
                    Verdict::InTransaction => Ok(Some(host.epoch().0)),
                    Verdict::Refused(code) => Err(code),
                });
            }
            Err(code) => code,
        };
        match self.transactions.leader_of(transactional_id).filter(|leader| *leader != self.peers.me()) {
            Some(node) if code == ErrorCode::NotCoordinator => Coordinator::At(node),
            _ => Coordinator::Here(Err(code)),
        }
    }

    fn ask(self: &Arc<Self>, node: NodeId, question: Question) {
        let starts = {
            let mut questions = self.questions.lock();
            let starts = !questions.contains_key(&node);
            questions.entry(node).or_default().push_back(question);
            starts
        };
        if starts {
            self.tasks.spawn("verification", Arc::clone(self).ask_all(node));
        }
    }

    /// One request after another to one broker, until there is nothing to ask.
    async fn ask_all(self: Arc<Self>, node: NodeId) {
        while let Some(batch) = self.next_batch(node) {
            let answered = self.peers.ask(node, ANSWER_TIMEOUT, request(&batch)).await;
            let answers = answered.map(|response| answers(&response));
            for question in batch {
                let answer = match &answers {
                    Ok(answers) => answers
                        .get(&(question.claim.transactional_id.clone(), question.partition.at().clone()))
                        .copied()
                        .unwrap_or(Err(ErrorCode::NetworkException)),
                    Err(code) => Err(*code),
                };
                self.settle(question, answer);
            }
        }
    }

    fn next_batch(&self, node: NodeId) -> Option<Vec<Question>> {
        let mut questions = self.questions.lock();
        let waiting = questions.get_mut(&node)?;
        let mut batch: Vec<Question> = Vec::new();
        let mut by_id: BTreeMap<ByteString, Claim> = BTreeMap::new();
        let mut later = VecDeque::new();
        while batch.len() < CHECKS_PER_REQUEST
            && let Some(question) = waiting.pop_front()
        {
            let claim = &question.claim;
            // The answer names the transactional id alone, so of each one producer is in a request.
            if by_id.entry(claim.transactional_id.clone()).or_insert_with(|| claim.clone()) == claim {
                batch.push(question);
            } else {
                later.push_back(question);
            }
        }
        waiting.extend(later);
        if batch.is_empty() {
            questions.remove(&node);
            return None;
        }
        Some(batch)
    }

    /// Has done in order what waited for this answer. What the producer sent under another claim is asked for anew.
    fn settle(self: &Arc<Self>, mut question: Question, mut answer: Answer) {
        let producer = question.claim.producer_id;
        let place = (question.partition.topic_id(), question.partition.at().partition, producer);
        loop {
            let next = {
                let mut lines = self.lines.lock();
                let Some(line) = lines.get_mut(&place) else { break };
                match line.front() {
                    None => {
                        lines.remove(&place);
                        break;
                    }
                    Some(waiting) if waiting.claim != question.claim => Err(waiting.claim.clone()),
                    Some(_) => line.pop_front().ok_or_else(|| question.claim.clone()),
                }
            };
            match next {
                Ok(waiting) => (waiting.work)(question.word(answer)),
                Err(claim) => {
                    question.release(); // a marker of the older claim says nothing of this one
                    let guard = question.partition.guard(producer).ok();
                    question = Question { claim, guard, ..question };
                    match self.coordinator(&question) {
                        Coordinator::Here(known) => answer = known,
                        Coordinator::At(node) => return self.ask(node, question),
                    }
                }
            }
        }
        question.release();
    }
}

impl Question {
    fn word(&self, answer: Answer) -> Result<Word, ErrorCode> {
        let guard = self.guard.ok_or(ErrorCode::NotLeaderOrFollower)?;
        answer.map(|coordinator_epoch| Word::Verified { guard, coordinator_epoch })
    }

    fn release(&self) {
        if let Some(guard) = self.guard {
            self.partition.release(self.claim.producer_id, guard);
        }
    }
}

/// AddPartitionsToTxn that only asks.
fn request(batch: &[Question]) -> AddPartitionsToTxnRequest {
    let mut by_id: BTreeMap<&str, (&Claim, BTreeMap<&str, Vec<i32>>)> = BTreeMap::new();
    for Question { claim, partition, .. } in batch {
        let (_, topics) = by_id.entry(&claim.transactional_id).or_insert_with(|| (claim, BTreeMap::new()));
        topics.entry(&partition.at().topic).or_default().push(partition.at().partition);
    }
    let transaction = |(claim, topics): (&Claim, BTreeMap<&str, Vec<i32>>)| AddPartitionsToTxnTransaction {
        transactional_id: claim.transactional_id.clone(),
        producer_id: claim.producer_id.0,
        producer_epoch: claim.producer_epoch.0,
        verify_only: true,
        topics: topics
            .into_iter()
            .map(|(name, partitions)| AddPartitionsToTxnTopic { name: name.into(), partitions })
            .collect(),
    };
    AddPartitionsToTxnRequest {
        transactions: by_id.into_values().map(transaction).collect(),
        ..AddPartitionsToTxnRequest::default()
    }
}

fn answers(response: &AddPartitionsToTxnResponse) -> BTreeMap<(ByteString, TopicPartition), Answer> {
    let mut answers = BTreeMap::new();
    for transaction in &response.results_by_transaction {
        for topic in &transaction.topic_results {
            let name: Arc<str> = Arc::from(&*topic.name);
            for one in &topic.results_by_partition {
                let at = TopicPartition::new(Arc::clone(&name), one.partition_index);
                let epoch = Some(transaction.coordinator_epoch).filter(|epoch| *epoch >= 0);
                let answer = match ErrorCode::from_code(one.partition_error_code) {
                    ErrorCode::None => Ok(epoch),
                    code => Err(code),
                };
                answers.insert((transaction.transactional_id.clone(), at), answer);
            }
        }
    }
    answers
}
