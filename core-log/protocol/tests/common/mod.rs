//! Messages made up from the table: valid bytes of any message in any version, and the codecs under one signature.

use bytes::Bytes;
use millstream_protocol::messages::*;
use millstream_protocol::wire::{Message as _, Reader, Writer};
use millstream_protocol::{CodecError, MetadataRecord};
use millstream_protocol_codegen::schema::{Field, Kind, Message, Type};
use millstream_protocol_codegen::table;

/// The whole table.
pub(crate) fn table() -> Vec<Message> {
    table::load(&millstream_protocol_codegen::table_dir()).unwrap()
}

/// A small generator of numbers (xorshift64*): a test is repeated by its seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Makes up one message of one version.
pub(crate) struct Maker<'a> {
    message: &'a Message,
    version: i16,
    flexible: bool,
    rng: &'a mut Rng,
}

impl<'a> Maker<'a> {
    pub(crate) fn make(message: &'a Message, version: i16, rng: &'a mut Rng) -> Vec<u8> {
        let flexible = message.flexible.is_some_and(|range| range.has(version));
        let mut out = Vec::new();
        Maker { message, version, flexible, rng }.fields(&mut out, &message.fields, false);
        out
    }

    fn fields(&mut self, out: &mut Vec<u8>, fields: &[Field], defaults: bool) {
        let mut tags = Vec::new();
        let version = self.version;
        for field in fields.iter().filter(|field| field.versions.has(version)) {
            match field.tag {
                Some((tag, _)) if !defaults => tags.push((tag, field)),
                Some(_) => {}
                None if defaults => self.default(out, field),
                None => self.value(out, field),
            }
        }
        if !self.flexible {
            return;
        }
        tags.sort_by_key(|(tag, _)| *tag);
        let mut present = Vec::new();
        for (tag, field) in tags {
            let (mut value, mut default) = (Vec::new(), Vec::new());
            self.value(&mut value, field);
            self.default(&mut default, field);
            if value != default && self.rng.below(2) == 0 {
                present.push((tag, value));
            }
        }
        varint(out, present.len() as u32);
        for (tag, value) in present {
            varint(out, tag);
            varint(out, value.len() as u32);
            out.extend(value);
        }
    }

    fn nullable(&self, field: &Field) -> bool {
        field.nullable.is_some_and(|range| range.has(self.version))
    }

    fn value(&mut self, out: &mut Vec<u8>, field: &Field) {
        let nullable = self.nullable(field);
        if nullable && self.rng.below(4) == 0 {
            return self.null(out, field);
        }
        if nullable && matches!(field.ty, Type::Struct(_)) {
            out.push(1);
        }
        self.element(out, &field.ty);
    }

    fn null(&mut self, out: &mut Vec<u8>, field: &Field) {
        match field.ty {
            Type::Struct(_) => out.push(if field.tag.is_some() { 0 } else { 0xff }),
            _ => self.length(out, None, field.ty == Type::Basic("string")),
        }
    }

    fn length(&mut self, out: &mut Vec<u8>, length: Option<usize>, small: bool) {
        match (self.flexible, small) {
            (true, _) => varint(out, length.map_or(0, |length| length as u32 + 1)),
            (false, true) => out.extend(length.map_or(-1, |length| length as i16).to_be_bytes()),
            (false, false) => out.extend(length.map_or(-1, |length| length as i32).to_be_bytes()),
        }
    }

    fn element(&mut self, out: &mut Vec<u8>, ty: &Type) {
        match ty {
            Type::Basic("bool") => out.push(self.rng.below(2) as u8),
            Type::Basic("int8") => out.extend(self.rng.bytes(1)),
            Type::Basic("int16" | "uint16") => out.extend(self.rng.bytes(2)),
            Type::Basic("int32" | "uint32") => out.extend(self.rng.bytes(4)),
            Type::Basic("int64") => out.extend(self.rng.bytes(8)),
            Type::Basic("float64") => out.extend((self.rng.below(1 << 40) as f64 / 7.0).to_be_bytes()),
            Type::Basic("uuid") => out.extend(self.rng.bytes(16)),
            Type::Basic("string") => {
                let text: String = (0..self.rng.below(9)).map(|at| if at == 3 { 'é' } else { 'k' }).collect();
                self.length(out, Some(text.len()), true);
                out.extend(text.into_bytes());
            }
            Type::Basic(_) => {
                // Now and then long enough to be chained and not copied.
                let length = if self.rng.below(16) == 0 { 5000 } else { self.rng.below(40) };
                self.length(out, Some(length as usize), false);
                let bytes = self.rng.bytes(length);
                out.extend(bytes);
            }
            Type::Struct(name) => self.fields(out, &self.message.find(name).unwrap().fields, false),
            Type::Array(element) => {
                let count = self.rng.below(4);
                self.length(out, Some(count as usize), false);
                (0..count).for_each(|_| self.element(out, element));
            }
        }
    }

    /// The bytes of the field's default.
    fn default(&mut self, out: &mut Vec<u8>, field: &Field) {
        let default = field.default.as_deref();
        let nullable = self.nullable(field);
        if nullable && (default == Some("null") || field.ty == Type::Basic("records")) {
            return self.null(out, field);
        }
        let number = default.map_or(0, |text| match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).unwrap(),
            None => text.parse().unwrap_or_default(),
        });
        match &field.ty {
            Type::Basic("bool") => out.push(u8::from(default == Some("true"))),
            Type::Basic("int8") => out.extend((number as i8).to_be_bytes()),
            Type::Basic("int16" | "uint16") => out.extend((number as i16).to_be_bytes()),
            Type::Basic("int32" | "uint32") => out.extend((number as i32).to_be_bytes()),
            Type::Basic("int64" | "float64") => out.extend(number.to_be_bytes()),
            Type::Basic("uuid") => out.extend([0; 16]),
            Type::Basic("string") => {
                let text = default.unwrap_or_default();
                self.length(out, Some(text.len()), true);
                out.extend(text.as_bytes());
            }
            Type::Struct(name) => {
                if nullable {
                    out.push(1);
                }
                self.fields(out, &self.message.find(name).unwrap().fields, true);
            }
            Type::Basic(_) | Type::Array(_) => self.length(out, Some(0), false),
        }
    }
}

fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads `bytes` as that message and writes what was read.
pub(crate) fn through(message: &Message, version: i16, bytes: Bytes) -> Result<Bytes, CodecError> {
    let api = || ApiKey::from_code(message.key.unwrap()).unwrap();
    match message.kind {
        Kind::Request => {
            let mut reader = Reader::new(bytes);
            let read = Request::read(api(), &mut reader, version)?;
            reader.finish()?;
            let mut writer = Writer::new();
            read.write(&mut writer, version)?;
            Ok(writer.finish().into_bytes())
        }
        Kind::Response => {
            let mut reader = Reader::new(bytes);
            let read = Response::read(api(), &mut reader, version)?;
            reader.finish()?;
            let mut writer = Writer::new();
            read.write(&mut writer, version)?;
            Ok(writer.finish().into_bytes())
        }
        Kind::Metadata => {
            let mut framed = vec![1];
            varint(&mut framed, message.key.unwrap() as u32);
            varint(&mut framed, version as u32);
            let skip = framed.len();
            framed.extend(bytes);
            Ok(MetadataRecord::decode(framed.into())?.encode_as(version)?.slice(skip..))
        }
        _ => plain(&message.name, version, bytes),
    }
}

macro_rules! plain {
    ($($name:ident)*) => {
        /// The messages that no enum holds.
        fn plain(name: &str, version: i16, bytes: Bytes) -> Result<Bytes, CodecError> {
            match name {
                $(stringify!($name) => $name::decode(bytes, version)?.encode(version),)*
                other => panic!("{other} is not in the list of plain messages"),
            }
        }
    };
}

plain! {
    ConsumerProtocolAssignment
    ConsumerProtocolSubscription
    ControlRecordTypeSchema
    DefaultPrincipalData
    EndTxnMarker
    KRaftVersionRecord
    LeaderChangeMessage
    QuorumStateData
    SnapshotFooterRecord
    SnapshotHeaderRecord
    VotersRecord
    LegacyOffsetCommitKey
    OffsetCommitKey
    GroupMetadataKey
    ConsumerGroupMetadataKey
    ConsumerGroupPartitionMetadataKey
    ConsumerGroupMemberMetadataKey
    ConsumerGroupTargetAssignmentMetadataKey
    ConsumerGroupTargetAssignmentMemberKey
    ConsumerGroupCurrentMemberAssignmentKey
    ShareGroupMemberMetadataKey
    ShareGroupMetadataKey
    ShareGroupTargetAssignmentMetadataKey
    ShareGroupTargetAssignmentMemberKey
    ShareGroupCurrentMemberAssignmentKey
    ShareGroupStatePartitionMetadataKey
    ConsumerGroupRegularExpressionKey
    StreamsGroupMetadataKey
    StreamsGroupMemberMetadataKey
    StreamsGroupTargetAssignmentMetadataKey
    StreamsGroupTargetAssignmentMemberKey
    StreamsGroupCurrentMemberAssignmentKey
    StreamsGroupTopologyKey
    LegacyOffsetCommitValue
    OffsetCommitValue
    GroupMetadataValue
    ConsumerGroupMetadataValue
    ConsumerGroupPartitionMetadataValue
    ConsumerGroupMemberMetadataValue
    ConsumerGroupTargetAssignmentMetadataValue
    ConsumerGroupTargetAssignmentMemberValue
    ConsumerGroupCurrentMemberAssignmentValue
    ShareGroupMemberMetadataValue
    ShareGroupMetadataValue
    ShareGroupTargetAssignmentMetadataValue
    ShareGroupTargetAssignmentMemberValue
    ShareGroupCurrentMemberAssignmentValue
    ShareGroupStatePartitionMetadataValue
    ConsumerGroupRegularExpressionValue
    StreamsGroupMetadataValue
    StreamsGroupMemberMetadataValue
    StreamsGroupTargetAssignmentMetadataValue
    StreamsGroupTargetAssignmentMemberValue
    StreamsGroupCurrentMemberAssignmentValue
    StreamsGroupTopologyValue
    ProducerSnapshot
    ShareSnapshotKey
    ShareUpdateKey
    ShareSnapshotValue
    ShareUpdateValue
    RemoteLogSegmentMetadataRecord
    RemoteLogSegmentMetadataUpdateRecord
    RemoteLogSegmentMetadataSnapshotRecord
    RemotePartitionDeleteMetadataRecord
    TransactionLogKey
    TransactionLogValue
    RaftMembershipRecord
    RaftSnapshotRecord
    RaftVoteData
}
