//! The functions that a step may call.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::{AggregateUDF, ScalarUDF, Volatility};

use super::udf::DateTrunc;

/// Aggregates whose state has a bounded size, whatever the number of rows, and does not depend on what order equal rows
/// come in. Others (median, array_agg, first_value) would keep every row of a window.
const AGGREGATES: &[&str] = &[
    "approx_distinct",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

/// Functions by every name they have.
pub(super) struct Functions {
    pub(super) scalar: BTreeMap<String, Arc<ScalarUDF>>,
    pub(super) aggregate: BTreeMap<String, Arc<AggregateUDF>>,
    pub(super) planners: Vec<Arc<dyn ExprPlanner>>,
}

/// Whether there is a function of this name, and whether a step may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It may be called.
    Yes,
    /// It gives another result at another time, so that a run could not be repeated.
    Volatile,
    /// An aggregate that would keep every row.
    Unbounded,
    /// There is none.
    No,
}

/// All functions; made once, since there are hundreds.
pub(super) fn functions() -> &'static Functions {
    static ALL: LazyLock<Functions> = LazyLock::new(Functions::new);
    &ALL
}

impl Functions {
    fn new() -> Self {
        let mut scalar = BTreeMap::new();
        for function in datafusion_functions::all_default_functions() {
            for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str))
            {
                scalar.insert(name.to_ascii_lowercase(), Arc::clone(&function));
            }
        }
        if let Some(inner) = scalar.get("date_trunc").cloned() {
            let ours = Arc::new(ScalarUDF::new_from_impl(DateTrunc::new(inner)));
            scalar.extend(["date_trunc", "datetrunc"].map(|name| (name.to_owned(), Arc::clone(&ours))));
        }
        let mut aggregate = BTreeMap::new();
        for function in datafusion_functions_aggregate::all_default_aggregate_functions() {
            for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str))
            {
                aggregate.insert(name.to_ascii_lowercase(), Arc::clone(&function));
            }
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
        ];
        Self { scalar, aggregate, planners }
    }

    pub(super) fn known(&self, name: &str) -> Known {
        if let Some(function) = self.scalar.get(name) {
            return match function.signature().volatility {
                Volatility::Immutable => Known::Yes,
                Volatility::Stable | Volatility::Volatile => Known::Volatile,
            };
        }
        match self.aggregate.get(name) {
            Some(function) if is_bounded(function) => Known::Yes,
            Some(_) => Known::Unbounded,
            None => Known::No,
        }
    }

    pub(super) fn is_aggregate(&self, name: &str) -> bool {
        self.aggregate.contains_key(name)
    }

    /// The names that may be called.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let scalar = self.scalar.keys().map(String::as_str);
        scalar.chain(AGGREGATES.iter().copied()).filter(|name| self.known(name) == Known::Yes)
    }
}

fn is_bounded(function: &AggregateUDF) -> bool {
    std::iter::once(function.name())
        .chain(function.aliases().iter().map(String::as_str))
        .any(|name| AGGREGATES.contains(&name.to_ascii_lowercase().as_str()))
}

/// The names in [`AGGREGATES`], for messages.
pub(super) fn aggregate_names() -> String {
    AGGREGATES.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_judged() {
        for (name, expected) in [
            ("upper", Known::Yes),
            ("count", Known::Yes),
            ("mean", Known::Yes),
            ("stddev_samp", Known::Yes),
            ("now", Known::Volatile),
            ("random", Known::Volatile),
            ("median", Known::Unbounded),
            ("first_value", Known::Unbounded),
            ("uper", Known::No),
        ] {
            assert_eq!(functions().known(name), expected, "{name}");
        }
    }

    #[test]
    fn every_allowed_aggregate_exists() {
        for name in AGGREGATES {
            assert!(functions().is_aggregate(name), "{name}");
        }
    }
}
