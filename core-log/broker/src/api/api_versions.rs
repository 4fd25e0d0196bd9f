//! ApiVersions: what this broker speaks, and the features of the cluster (KIP-511, KIP-584).

use bytestring::ByteString;
use millstream_protocol::messages::api_versions::{FinalizedFeatureKey, SupportedFeatureKey};
use millstream_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use millstream_protocol::{Ctx, ErrorCode, versions};

use crate::shared::Shared;

pub(super) fn handle(shared: &Shared, ctx: &Ctx, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let is_name = |text: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        text.chars().all(legal)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !text.ends_with(['.', '-'])
    };
    let names = [&request.client_software_name, &request.client_software_version];
    if ctx.facts.names_its_software && !names.into_iter().all(|name| is_name(name)) {
        return ApiVersionsResponse {
            error_code: ErrorCode::InvalidRequest.code(),
            ..ApiVersionsResponse::default()
        };
    }
    let image = shared.image.load();
    let supported = shared.config.supported_features.iter();
    let finalized = image.features().map(|(name, level)| FinalizedFeatureKey {
        name: ByteString::from(&**name),
        max_version_level: level,
        min_version_level: level,
    });
    ApiVersionsResponse {
        api_keys: versions::Audience::Clients.told(),
        supported_features: supported
            .filter(|(_, least, _)| *least > 0 || ctx.facts.zero_feature_known)
            .map(|(name, min_version, max_version)| SupportedFeatureKey {
                name: ByteString::from_static(name),
                min_version,
                max_version,
            })
            .collect(),
        finalized_features_epoch: image.end().0 - 1,
        finalized_features: finalized.collect(),
        ..ApiVersionsResponse::default()
    }
}
