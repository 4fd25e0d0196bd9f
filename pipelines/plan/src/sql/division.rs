//! Which integers PostgreSQL has as numeric, so that a quotient of them has digits behind its point: a sum of bigint, and what `extract`
//! gives.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion_common::{DFSchema, Result};
use datafusion_expr::expr::{AggregateFunction, Case};
use datafusion_expr::logical_plan::Aggregate;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan};

use super::coerce::CHOICES;
use super::decimal::{cast, decimal, digits};

/// Functions that give their argument's type.
const SAME_TYPE: &[&str] = &["abs", "signum"];

/// Columns of a plan's result that are integers here and numeric in PostgreSQL.
#[derive(Default)]
pub(super) struct Numerics(BTreeSet<String>);

impl Numerics {
    /// Those of the inputs of a node.
    pub(super) fn of(inputs: &[&LogicalPlan]) -> Result<Self> {
        let mut found = Self::default();
        inputs.iter().try_for_each(|input| found.add(input))?;
        Ok(found)
    }

    fn add(&mut self, plan: &LogicalPlan) -> Result<()> {
        match plan {
            LogicalPlan::Filter(filter) => self.add(&filter.input),
            LogicalPlan::Aggregate(aggregate) => self.add_aggregate(aggregate),
            _ => Ok(()),
        }
    }

    fn add_aggregate(&mut self, aggregate: &Aggregate) -> Result<()> {
        let (below, schema) = (Self::default(), aggregate.input.schema());
        let made = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
        for (expr, column) in made.zip(aggregate.schema.columns()) {
            let is_numeric = match bare(expr) {
                Expr::AggregateFunction(call) => is_numeric_aggregate(call, &below, schema)?,
                other => below.has(other),
            };
            if is_numeric {
                self.0.insert(column.flat_name());
            }
        }
        Ok(())
    }

    /// Whether an integer is numeric in PostgreSQL.
    fn has(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Column(column) => self.0.contains(&column.flat_name()),
            Expr::Alias(alias) => self.has(&alias.expr),
            Expr::Negative(inner) => self.has(inner),
            Expr::BinaryExpr(binary) if binary.op.is_numerical_operators() => {
                self.has(&binary.left) || self.has(&binary.right)
            }
            Expr::Case(case) => results(case).any(|result| self.has(result)),
            Expr::ScalarFunction(call) => {
                let name = call.func.name();
                name == "date_part"
                    || ((CHOICES.contains(&name) || SAME_TYPE.contains(&name))
                        && call.args.iter().any(|arg| self.has(arg)))
            }
            _ => false,
        }
    }

    /// An operand of a division, as a decimal where it is an integer that PostgreSQL has as one.
    pub(super) fn operand(&self, expr: Expr, schema: &DFSchema) -> Result<Expr> {
        let of = expr.get_type(schema)?;
        if !of.is_integer() || !self.has(&expr) {
            return Ok(expr);
        }
        let exact = digits(&expr, &of).and_then(|(precision, scale)| decimal(precision, scale));
        Ok(match exact {
            Some(exact) => cast(expr, exact),
            None => expr,
        })
    }
}

fn is_numeric_aggregate(call: &AggregateFunction, below: &Numerics, schema: &DFSchema) -> Result<bool> {
    let Some(argument) = call.params.args.first() else { return Ok(false) };
    Ok(match call.func.name() {
        "sum" => below.has(argument) || is_bigint(argument, schema)?,
        "min" | "max" => below.has(argument),
        _ => false,
    })
}

/// Whether an integer has eight bytes in PostgreSQL, where a constant has four as long as it fits.
fn is_bigint(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    let of = expr.get_type(schema)?;
    if !matches!(of, DataType::Int64 | DataType::UInt64) {
        return Ok(false);
    }
    let any = |exprs: Vec<&Expr>| -> Result<bool> {
        exprs.into_iter().try_fold(false, |found, expr| Ok(found || is_bigint(expr, schema)?))
    };
    match expr {
        Expr::Alias(alias) => is_bigint(&alias.expr, schema),
        Expr::Negative(inner) => is_bigint(inner, schema),
        Expr::Literal(value, _) => Ok(value.cast_to(&DataType::Int32).is_err()),
        Expr::BinaryExpr(binary) => any(vec![&binary.left, &binary.right]),
        Expr::Case(case) => any(results(case).collect()),
        Expr::ScalarFunction(call) => any(call.args.iter().collect()),
        _ => Ok(true),
    }
}

fn results(case: &Case) -> impl Iterator<Item = &Expr> {
    let thens = case.when_then_expr.iter().map(|(_, then)| &**then);
    thens.chain(case.else_expr.as_deref())
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        other => other,
    }
}
