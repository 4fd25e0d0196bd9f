//! Arithmetic that fails where a number does not fit its type, as SQL has it. DataFusion wraps around unless it is asked.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{Expr, LogicalPlan, Operator};
use datafusion_physical_expr::aggregate::LoweredAggregate;
use datafusion_physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

/// The same expression, checked. `schema` is that of the rows it is evaluated on.
pub(super) fn expression(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let check = |part: Arc<dyn PhysicalExpr>| {
        let checked = if let Some(binary) = part.downcast_ref::<BinaryExpr>() {
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
        Ok(checked.map_or(Transformed::no(part), |checked| Transformed::yes(Arc::new(checked) as _)))
    };
    expr.transform_up(check).data()
}

/// The same aggregate over checked arguments.
pub(super) fn aggregate(lowered: LoweredAggregate, schema: &Schema) -> Result<LoweredAggregate> {
    let arguments: Vec<_> = lowered
        .aggregate
        .expressions()
        .into_iter()
        .map(|expr| expression(expr, schema))
        .collect::<Result<_>>()?;
    let filter = lowered.filter.map(|filter| expression(filter, schema)).transpose()?;
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
        let computes = matches!(part, Expr::BinaryExpr(binary) if is_arithmetic(binary.op));
        if (computes || matches!(part, Expr::Negative(_))) && part.column_refs().is_empty() {
            let made = create_physical_expr(part, &DFSchema::empty(), &props, &context)?;
            expression(made, &Schema::empty())?.evaluate(&row)?;
            return Ok(TreeNodeRecursion::Jump);
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply(|node| node.apply_expressions(|expr| expr.apply(judge)))?;
    Ok(())
}

fn is_arithmetic(operator: Operator) -> bool {
    matches!(operator, Operator::Plus | Operator::Minus | Operator::Multiply)
}
