//! Metadata: the controller's decisions on their way through the metadata log into the image that everybody reads.

mod codec;
mod local_log;
pub mod quorum;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use millstream_env::Env;
use millstream_machine::config::{Effective, Static};
use millstream_machine::metadata::{
    Controller, Decision, Image, InternalTopic, MetadataLog, NewIds, ProposeError, Record,
};
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::create_topics::CreatableTopic;
use millstream_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterPartitionRequest, AlterPartitionResponse,
    BrokerRegistrationRequest, CreateTopicsRequest,
};
use millstream_record::Offset;

pub(crate) use local_log::LocalLog;

use crate::partitions::Partitions;
use crate::refusal::Refusal;
use crate::{BrokerConfig, Result};

/// Batches that are applied between two looks at the log.
const BATCHES_PER_READ: usize = 1024;

/// Decides, commits and applies, one decision at a time: each is made against an image that has all earlier ones.
pub(crate) struct Metadata {
    env: Env,
    image: Arc<ArcSwap<Image>>,
    log: Arc<dyn MetadataLog>,
    controller: Controller,
    statics: Arc<Static>,
    config: BrokerConfig,
    partitions: Arc<Partitions>,
    turn: tokio::sync::Mutex<()>,
}

impl Metadata {
    /// Reads what is committed, without acting on it yet.
    ///
    /// # Errors
    /// When a record cannot be read or understood.
    pub(crate) async fn load(
        env: Env,
        config: &BrokerConfig,
        log: Arc<dyn MetadataLog>,
        image: Arc<ArcSwap<Image>>,
        partitions: Arc<Partitions>,
    ) -> Result<Self> {
        let statics = Arc::new(config.properties.clone());
        let controller = Controller::new(Arc::clone(&statics));
        let config = config.clone();
        let turn = tokio::sync::Mutex::default();
        let metadata = Self { env, image, log, controller, statics, config, partitions, turn };
        let committed = metadata.follow(Image::default()).await?;
        metadata.image.store(Arc::new(committed));
        Ok(metadata)
    }

    /// Makes this node's presence a fact: the first records of a new cluster, and this incarnation of the broker.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) async fn register(&self, request: &BrokerRegistrationRequest) -> Result<(), Refusal> {
        let bootstrap = |controller: &Controller, image: &Image, _: NewIds<'_>| Decision {
            records: controller.bootstrap(image),
            response: (),
        };
        self.decide(bootstrap).await?;
        let register = |controller: &Controller, image: &Image, _: NewIds<'_>| {
            // What this node acknowledged is on its disk, so it ended in order however it ended.
            let previous_broker_epoch = image.broker(self.config.node_id).map_or(-1, |broker| broker.epoch);
            let request = BrokerRegistrationRequest { previous_broker_epoch, ..request.clone() };
            controller.register_sole_broker(image, &request)
        };
        let response = self.decide(register).await?;
        Ok(ErrorCode::from_code(response.error_code).ok()?)
    }

    /// Lets the controller decide, commits what it decided and applies it, then gives its answer.
    ///
    /// # Errors
    /// When the log cannot be written, or this node does not lead it.
    pub(crate) async fn decide<R>(
        &self,
        decide: impl FnOnce(&Controller, &Image, NewIds<'_>) -> Decision<R>,
    ) -> Result<R, Refusal> {
        let _turn = self.turn.lock().await;
        let image = self.image.load_full();
        let mut new_id = || self.env.random_uuid();
        let Decision { records, response } = decide(&self.controller, &image, &mut new_id);
        if !records.is_empty() {
            self.commit(records).await?;
        }
        Ok(response)
    }

    /// Creates the topics named, as a client's first use of them does; gives those that could not be created.
    pub(crate) async fn auto_create(&self, names: BTreeSet<ByteString>) -> BTreeMap<ByteString, ErrorCode> {
        let image = self.image.load_full();
        let effective = Effective::new(&image, self.config.node_id, &self.statics);
        let as_asked = |name: &ByteString| match InternalTopic::of_name(name) {
            Some(internal) => internal.request(&image, &effective),
            None => CreatableTopic {
                name: name.clone(),
                num_partitions: -1,
                replication_factor: -1,
                ..CreatableTopic::default()
            },
        };
        let topics = names.iter().map(as_asked).collect();
        let request = CreateTopicsRequest { topics, ..CreateTopicsRequest::default() };
        match self.decide(|controller, image, ids| controller.create_topics(image, &request, ids)).await {
            Ok(response) => response
                .topics
                .into_iter()
                .filter(|result| result.error_code != 0)
                .map(|result| (result.name, ErrorCode::from_code(result.error_code)))
                .filter(|(_, code)| *code != ErrorCode::TopicAlreadyExists)
                .collect(),
            Err(refusal) => names.into_iter().map(|name| (name, refusal.code)).collect(),
        }
    }

    /// The next block of producer ids for this broker.
    ///
    /// # Errors
    /// As for [`Metadata::decide`].
    pub(crate) async fn allocate_producer_ids(&self) -> Result<AllocateProducerIdsResponse, Refusal> {
        let broker_epoch = self.image.load().broker(self.config.node_id).map_or(-1, |broker| broker.epoch);
        let request = AllocateProducerIdsRequest { broker_id: self.config.node_id.0, broker_epoch };
        let response =
            self.decide(|controller, image, _| controller.allocate_producer_ids(image, &request)).await?;
        ErrorCode::from_code(response.error_code).ok()?;
        Ok(response)
    }

    /// Asks for in-sync sets.
    ///
    /// # Errors
    /// As for [`Metadata::decide`]; the broker epoch is not the current one.
    pub(crate) async fn alter_partition(
        &self,
        request: AlterPartitionRequest,
    ) -> Result<AlterPartitionResponse, Refusal> {
        let response =
            self.decide(|controller, image, _| controller.alter_partition(image, &request)).await?;
        ErrorCode::from_code(response.error_code).ok()?;
        Ok(response)
    }

    async fn commit(&self, records: Vec<Record>) -> Result<(), Refusal> {
        let (epoch, leads) = self.log.leadership();
        if !leads {
            return Err(ErrorCode::NotController.into());
        }
        let end = self.log.propose(epoch, records.clone()).await.map_err(unproposed)?;
        let before = self.image.load_full();
        let next = self.follow((*before).clone()).await.map_err(|error| {
            tracing::error!(%error, "committed metadata cannot be applied");
            Refusal::new(ErrorCode::UnknownServerError, error.to_string())
        })?;
        debug_assert!(next.end() >= end);
        let next = Arc::new(next);
        self.partitions.before_publishing(&next).await;
        self.image.store(Arc::clone(&next));
        self.partitions.after_publishing(&before, &next, &records).await;
        Ok(())
    }

    /// `image` with everything committed that it lacks.
    async fn follow(&self, mut image: Image) -> Result<Image> {
        while image.end() < self.log.committed_end() {
            let read = self.log.read(image.end(), BATCHES_PER_READ).await;
            let batches = read.map_err(|error| crate::BrokerError::Refused {
                what: error.to_string(),
                mend: "look at the metadata log's directory, __cluster_metadata-0",
            })?;
            let before: Offset = image.end();
            for batch in &batches {
                image.apply_batch(batch)?;
            }
            if image.end() == before {
                break;
            }
        }
        Ok(image)
    }
}

fn unproposed(error: ProposeError) -> Refusal {
    let code = match error {
        ProposeError::NotLeader { .. }
        | ProposeError::EpochEnded { .. }
        | ProposeError::Unsettled { .. }
        | ProposeError::Closed => ErrorCode::NotController,
        ProposeError::Busy { .. } => ErrorCode::ThrottlingQuotaExceeded,
        _ => ErrorCode::KafkaStorageError,
    };
    Refusal::new(code, error.to_string())
}
