//! Evaluation that fails where SQL fails, and nowhere else: arithmetic where a number does not fit its type (DataFusion wraps around
//! unless it is asked) or where a float is not finite any more, and never the right side of an AND or OR for a row that the left side decides (DataFusion computes it for all
//! rows of a chunk unless few of them need it).

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion_physical_expr::aggregate::LoweredAggregate;
use datafusion_physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal,
    NegativeExpr, NotExpr, TryCastExpr, case, lit,
};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use super::finite;

/// The same expression, checked. `schema` is that of the rows it is evaluated on.
pub(super) fn expression(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let check = |part: Arc<dyn PhysicalExpr>| {
        let checked = if let Some(binary) = part.downcast_ref::<BinaryExpr>() {
            if let Some(decided) = decided_by(*binary.op())
                && can_fail(binary.right(), schema)?
            {
                let when = is(Arc::clone(binary.left()), decided);
                return Ok(Transformed::yes(case(None, vec![(when, lit(decided))], Some(part))?));
            }
            is_arithmetic(*binary.op()).then(|| binary.clone().with_fail_on_overflow(true))
        } else if let Some(negative) = part.downcast_ref::<NegativeExpr>() {
            let data_type = negative.arg().data_type(schema)?;
            match data_type.is_integer() {
                true => {
                    let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
                    let difference = BinaryExpr::new(zero, Operator::Minus, Arc::clone(negative.arg()));
                    Some(difference.with_fail_on_overflow(true))
                }
                false => None,
            }
        } else {
            None
        };
        let (part, is_changed) = match checked {
            Some(checked) => (Arc::new(checked) as Arc<dyn PhysicalExpr>, true),
            None => (part, false),
        };
        Ok(match finite::checked(&part, schema)? {
            Some(finite) => Transformed::yes(finite),
            None if is_changed => Transformed::yes(part),
            None => Transformed::no(part),
        })
    };
    expr.transform_up(check).data()
}

/// The condition that [`expression`] made, where a row counts only if it is true: null decides an AND as false does, and a WHERE ends
/// there.
pub(super) fn where_true(expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let guarded = as_written(&expr);
    let Some(binary) = guarded.as_ref().unwrap_or(&expr).downcast_ref::<BinaryExpr>() else {
        return Ok(expr);
    };
    if *binary.op() != Operator::And {
        return Ok(expr);
    }
    let left = where_true(Arc::clone(binary.left()))?;
    if guarded.is_none() {
        return Ok(Arc::new(BinaryExpr::new(left, Operator::And, Arc::clone(binary.right()))));
    }
    let right = where_true(Arc::clone(binary.right()))?;
    case(None, vec![(is(left, true), right)], Some(lit(false)))
}

fn is(value: Arc<dyn PhysicalExpr>, wanted: bool) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(value, Operator::IsNotDistinctFrom, lit(wanted)))
}

/// The value of the left side that decides the result.
fn decided_by(operator: Operator) -> Option<bool> {
    match operator {
        Operator::And => Some(false),
        Operator::Or => Some(true),
        _ => None,
    }
}

/// The AND or OR in what [`expression`] or [`where_true`] made of it, for showing it.
pub(crate) fn as_written(part: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let case = part.downcast_ref::<CaseExpr>().filter(|case| case.expr().is_none())?;
    let (otherwise, [(when, then)]) = (case.else_expr()?, case.when_then_expr()) else { return None };
    if let Some(binary) = otherwise.downcast_ref::<BinaryExpr>() {
        let decided = decided_by(*binary.op())?;
        let made = *when == is(Arc::clone(binary.left()), decided);
        return made.then(|| Arc::clone(otherwise));
    }
    let decision = when.downcast_ref::<BinaryExpr>()?;
    let made = *when == is(Arc::clone(decision.left()), true) && *otherwise == lit(false);
    made.then(|| Arc::new(BinaryExpr::new(Arc::clone(decision.left()), Operator::And, Arc::clone(then))) as _)
}

/// Whether there may be a row for which `expr` has no value. What is not known not to fail may.
pub(super) fn can_fail(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<bool> {
    expr.exists(|part| {
        let part = part.as_ref();
        if let Some(binary) = part.downcast_ref::<BinaryExpr>() {
            let op = binary.op();
            return Ok(!(is_comparison(*op) || op.is_logic_operator()));
        }
        if let Some(cast) = part.downcast_ref::<CastExpr>() {
            return Ok(!is_wider(&cast.expr().data_type(schema)?, cast.cast_type()));
        }
        Ok(!(part.is::<Column>()
            || part.is::<Literal>()
            || part.is::<NotExpr>()
            || part.is::<IsNullExpr>()
            || part.is::<IsNotNullExpr>()
            || part.is::<InListExpr>()
            || part.is::<LikeExpr>()
            || part.is::<CaseExpr>()
            || part.is::<TryCastExpr>()))
    })
}

/// Whether every value of one type has a form in the other.
pub(super) fn is_wider(from: &DataType, to: &DataType) -> bool {
    let bytes = |of: &DataType| of.primitive_width().unwrap_or(0);
    match (from, to) {
        _ if from == to => true,
        (from, to) if from.is_signed_integer() && to.is_signed_integer() => bytes(from) <= bytes(to),
        (from, to) if from.is_unsigned_integer() && to.is_integer() => bytes(from) < bytes(to),
        (DataType::Decimal128(from, from_scale), DataType::Decimal128(to, to_scale)) => {
            let whole = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
            from_scale <= to_scale && whole(*from, *from_scale) <= whole(*to, *to_scale)
        }
        (from, DataType::Decimal128(precision, scale)) if from.is_integer() => {
            i16::from(*precision) - i16::from(*scale) >= 20
        }
        (from, to) => (from.is_numeric() && to.is_floating()) || to.is_string(),
    }
}

/// The same aggregate over checked arguments.
pub(super) fn aggregate(lowered: LoweredAggregate, schema: &Schema) -> Result<LoweredAggregate> {
    let arguments: Vec<_> = lowered
        .aggregate
        .expressions()
        .into_iter()
        .map(|expr| expression(expr, schema))
        .collect::<Result<_>>()?;
    let filter = lowered.filter.map(|filter| where_true(expression(filter, schema)?)).transpose()?;
    let aggregate = match lowered.aggregate.with_new_expressions(arguments, Vec::new()) {
        Some(checked) => Arc::new(checked),
        None => lowered.aggregate,
    };
    Ok(LoweredAggregate { aggregate, filter, ..lowered })
}

/// Fails where a part of `plan` without columns does not fit its type: the optimizer would compute it, and wrap around.
pub(super) fn constants(plan: &LogicalPlan) -> Result<()> {
    let context = PhysicalPlanningContext::default();
    let props = ExecutionProps::new();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
    let judge = |part: &Expr| {
        let is_float = || part.get_type(&DFSchema::empty()).is_ok_and(|of| of.is_floating());
        let computes = match part {
            Expr::BinaryExpr(binary) => is_arithmetic(binary.op) || is_float(),
            Expr::Negative(_) => true,
            Expr::ScalarFunction(_) | Expr::Cast(_) => is_float(),
            _ => false,
        };
        if computes && part.column_refs().is_empty() {
            let made = create_physical_expr(part, &DFSchema::empty(), &props, &context)?;
            expression(made, &Schema::empty())?.evaluate(&row)?;
            return Ok(TreeNodeRecursion::Jump);
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply(|node| node.apply_expressions(|expr| expr.apply(judge)))?;
    Ok(())
}

pub(super) fn is_comparison(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn is_arithmetic(operator: Operator) -> bool {
    matches!(operator, Operator::Plus | Operator::Minus | Operator::Multiply)
}
