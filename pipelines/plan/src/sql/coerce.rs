//! Types of operands as PostgreSQL sees them, made explicit before DataFusion finds common ones by its own rules.
//!
//! A number with a point is a decimal, and becomes a float where it meets one; a quotient of decimals has at least sixteen digits behind
//! the point; a cast to an integer rounds; intervals are compared by their length; and text is never taken for a number.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, Result, ScalarValue};
use datafusion_expr::expr::{Between, Case, InList, ScalarFunction};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF, TryCast};

use super::checked::{is_comparison, is_wider};
use super::decimal::{cast, decimal, digits, is_numeric_alone, kept, numeric_alone, product, quotient};
use super::division::Numerics;
use super::udf::{Keep, RoundToEven};
use super::{kinds, lengths, texts};

/// Functions that give one of their arguments: all are of one type.
pub(super) const CHOICES: &[&str] = &["coalesce", "nullif", "nvl", "ifnull", "greatest", "least"];
/// Those of them that compare their arguments.
const COMPARED: &[&str] = &["nullif", "greatest", "least"];
/// Functions that compute with decimals exactly. Others compute with floats, so they are given floats.
const EXACT: &[&str] = &["abs", "ceil", "floor", "round", "trunc", "signum", "arrow_typeof"];

/// The same plan with explicit casts.
///
/// # Errors
/// Where values of two kinds meet.
pub(super) fn types(plan: LogicalPlan) -> Result<LogicalPlan> {
    let explicit = |node: LogicalPlan| {
        let schema = merge_schema(&node.inputs());
        let numerics = Numerics::of(&node.inputs())?;
        if let LogicalPlan::Join(join) = &node {
            join.on.iter().try_for_each(|(left, right)| kinds::comparable(left, right, &schema))?;
        }
        let names = NamePreserver::new(&node);
        let rewritten = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(|part| rewrite(part, &schema, &numerics))?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        rewritten.map_data(LogicalPlan::recompute_schema)
    };
    Ok(plan.transform_up(explicit)?.data)
}

fn rewrite(part: Expr, schema: &DFSchema, numerics: &Numerics) -> Result<Transformed<Expr>> {
    let changed = match part {
        Expr::BinaryExpr(binary) => return operands(binary, schema, numerics),
        Expr::Between(between) => {
            kinds::comparable(&between.expr, &between.low, schema)?;
            kinds::comparable(&between.expr, &between.high, schema)?;
            let [value, low, high] = alike([*between.expr, *between.low, *between.high], schema)?;
            Expr::Between(Between::new(Box::new(value), between.negated, Box::new(low), Box::new(high)))
        }
        Expr::InList(list) => {
            list.list.iter().try_for_each(|member| kinds::comparable(&list.expr, member, schema))?;
            let mut all = vec![*list.expr];
            all.extend(list.list);
            let mut all = compared(all, schema)?.into_iter();
            let value = all.next().expect("the value stands first");
            Expr::InList(InList::new(Box::new(value), all.collect(), list.negated))
        }
        Expr::Case(case) => choose(case, schema)?,
        Expr::AggregateFunction(call) => {
            if let Some(filter) = &call.params.filter {
                kinds::condition(filter, "FILTER", schema)?;
            }
            return Ok(Transformed::no(Expr::AggregateFunction(call)));
        }
        Expr::ScalarFunction(call) if CHOICES.contains(&call.func.name()) => {
            let args = kinds::one_kind(call.args, schema)?;
            let args = match COMPARED.contains(&call.func.name()) {
                true => compared(args, schema)?,
                false => alike_all(args, schema)?,
            };
            Expr::ScalarFunction(ScalarFunction::new_udf(call.func, args))
        }
        Expr::ScalarFunction(call) => function(call, schema)?,
        Expr::Cast(Cast { expr, field }) => {
            let of = expr.get_type(schema)?;
            let to = field.data_type().clone();
            if is_numeric_alone(&to) {
                return Ok(Transformed::yes(numeric_alone(*expr, &of)?));
            }
            lossy(Expr::Cast(Cast { expr: Box::new(source(*expr, &of, &to)), field }), &of, &to)
        }
        Expr::TryCast(TryCast { expr, field }) => {
            let of = expr.get_type(schema)?;
            let to = field.data_type().clone();
            if is_numeric_alone(&to) {
                return Ok(Transformed::yes(numeric_alone(*expr, &of)?));
            }
            lossy(Expr::TryCast(TryCast { expr: Box::new(source(*expr, &of, &to)), field }), &of, &to)
        }
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(changed))
}

fn function(call: ScalarFunction, schema: &DFSchema) -> Result<Expr> {
    if let ("round", [value]) = (call.func.name(), call.args.as_slice())
        && value.get_type(schema)?.is_floating()
    {
        return Ok(to_even(cast(value.clone(), DataType::Float64)));
    }
    if EXACT.contains(&call.func.name()) {
        return Ok(Expr::ScalarFunction(call));
    }
    if ["concat", "concat_ws"].contains(&call.func.name()) {
        let args = texts::concatenated(call.args, schema)?;
        return Ok(Expr::ScalarFunction(ScalarFunction::new_udf(call.func, args)));
    }
    let args = call.args.into_iter().map(literal_to_float).collect();
    Ok(Expr::ScalarFunction(ScalarFunction::new_udf(call.func, args)))
}

fn operands(binary: BinaryExpr, schema: &DFSchema, numerics: &Numerics) -> Result<Transformed<Expr>> {
    let op = binary.op;
    let made = |left, right| Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }));
    if is_comparison(op) {
        kinds::comparable(&binary.left, &binary.right, schema)?;
        let [left, right] = alike([*binary.left, *binary.right], schema)?;
        return Ok(made(Box::new(left), Box::new(right)));
    }
    if op == Operator::StringConcat {
        let (left_type, right_type) = (binary.left.get_type(schema)?, binary.right.get_type(schema)?);
        let (left, right) = (texts::text(*binary.left, &left_type), texts::text(*binary.right, &right_type));
        return Ok(made(Box::new(left), Box::new(right)));
    }
    if !op.is_numerical_operators() {
        return Ok(Transformed::no(Expr::BinaryExpr(binary)));
    }
    kinds::computable(&binary.left, &binary.right, schema)?;
    let BinaryExpr { mut left, mut right, .. } = lengths::from_midnight(binary, schema)?;
    if op == Operator::Divide {
        left = Box::new(numerics.operand(*left, schema)?);
        right = Box::new(numerics.operand(*right, schema)?);
    }
    let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
    if left_type == DataType::Float32 && right_type.is_integer() {
        return Ok(made(Box::new(cast(*left, DataType::Float64)), right));
    }
    if left_type.is_integer() && right_type == DataType::Float32 {
        return Ok(made(left, Box::new(cast(*right, DataType::Float64))));
    }
    if left_type.is_floating() && right_type.is_decimal() {
        return Ok(made(left, Box::new(to_float(*right))));
    }
    if left_type.is_decimal() && right_type.is_floating() {
        return Ok(made(Box::new(to_float(*left)), right));
    }
    let exact = left_type.is_decimal() || right_type.is_decimal();
    let computed = match (digits(&left, &left_type), digits(&right, &right_type)) {
        (Some(of), Some(by)) if exact && op == Operator::Divide => {
            quotient(*left.clone(), of, *right.clone(), by)
        }
        (Some(a), Some(b)) if exact && op == Operator::Multiply => product(&left, a, &right, b),
        _ => None,
    };
    Ok(computed.map_or_else(|| made(left, right), Transformed::yes))
}

fn choose(case: Case, schema: &DFSchema) -> Result<Expr> {
    let Case { expr, when_then_expr, else_expr } = case;
    let (mut whens, thens): (Vec<Expr>, Vec<Expr>) =
        when_then_expr.into_iter().map(|(when, then)| (*when, *then)).unzip();
    let mut value = None;
    if let Some(expr) = expr {
        whens.iter().try_for_each(|when| kinds::comparable(&expr, when, schema))?;
        whens.insert(0, *expr);
        whens = compared(whens, schema)?;
        value = Some(Box::new(whens.remove(0)));
    } else {
        whens.iter().try_for_each(|when| kinds::condition(when, "CASE", schema))?;
    }
    let last = else_expr.is_some();
    let thens = thens.into_iter().chain(else_expr.map(|expr| *expr)).collect();
    let mut thens = alike_all(kinds::one_kind(thens, schema)?, schema)?;
    let else_expr = if last { thens.pop().map(Box::new) } else { None };
    let pairs = whens.into_iter().zip(thens).map(|(when, then)| (Box::new(when), Box::new(then)));
    Ok(Expr::Case(Case::new(value, pairs.collect(), else_expr)))
}

fn is_date(of: &DataType) -> bool {
    matches!(of, DataType::Date32 | DataType::Date64)
}

/// Decimals as floats if one of them is a float, dates as timestamps if one of them is a timestamp: DataFusion would go by nanoseconds.
fn alike_all(exprs: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let types = exprs.iter().map(|expr| expr.get_type(schema)).collect::<Result<Vec<_>>>()?;
    if let Some(time) = types.iter().find(|of| matches!(of, DataType::Timestamp(..))) {
        let convert =
            |(expr, of): (Expr, &DataType)| if is_date(of) { cast(expr, time.clone()) } else { expr };
        return Ok(exprs.into_iter().zip(&types).map(convert).collect());
    }
    if !types.iter().any(DataType::is_floating) {
        return Ok(exprs);
    }
    let convert = |(expr, of): (Expr, DataType)| if of.is_decimal() { to_float(expr) } else { expr };
    Ok(exprs.into_iter().zip(types).map(convert).collect())
}

/// The same for values that are compared: intervals as lengths, too, and quoted numbers with all their digits.
fn compared(exprs: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    lengths::comparable(alike_all(kinds::exact(exprs, schema)?, schema)?, schema)
}

fn alike<const N: usize>(exprs: [Expr; N], schema: &DFSchema) -> Result<[Expr; N]> {
    let all = compared(exprs.into(), schema)?;
    Ok(all.try_into().expect("as many as before"))
}

/// What a number with a point is where a float is computed with: read from its digits, so that no second rounding comes in.
fn to_float(expr: Expr) -> Expr {
    match literal_to_float(expr) {
        float @ Expr::Literal(..) => float,
        other => cast(other, DataType::Float64),
    }
}

fn literal_to_float(expr: Expr) -> Expr {
    match &expr {
        Expr::Literal(value, metadata) if value.data_type().is_decimal() && !value.is_null() => {
            match value.to_string().split(',').next().and_then(|text| text.parse().ok()) {
                Some(float) => Expr::Literal(ScalarValue::Float64(Some(float)), metadata.clone()),
                None => cast(expr, DataType::Float64),
            }
        }
        _ => expr,
    }
}

/// A number as PostgreSQL rounds it before it becomes an integer: floats to even, decimals away from zero.
fn rounded(expr: Expr, of: &DataType, to: &DataType) -> Expr {
    if !to.is_integer() {
        return expr;
    }
    match of {
        DataType::Float32 | DataType::Float64 => to_even(expr),
        // One digit more, since the first one may be rounded up from 9.
        DataType::Decimal128(precision, scale) if *scale > 0 => {
            let whole = i16::from(*precision) - i16::from(*scale) + 1;
            match decimal(whole, 0) {
                Some(whole) => kept(cast(expr, whole)),
                None => expr,
            }
        }
        _ => expr,
    }
}

/// What is cast, so that the result is PostgreSQL's.
fn source(expr: Expr, of: &DataType, to: &DataType) -> Expr {
    match (of, to) {
        (of, DataType::Timestamp(_, None)) if of.is_string() => texts::without_zone(expr),
        (of, to) if to.is_string() => texts::text(expr, of),
        (of, to) => rounded(expr, of, to),
    }
}

fn to_even(float: Expr) -> Expr {
    static ROUND: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(RoundToEven::default())));
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&ROUND), vec![float]))
}

/// A cast that may give several values the same one.
fn lossy(cast: Expr, of: &DataType, to: &DataType) -> Expr {
    let counts = |kind: &DataType| kind.is_numeric() || matches!(kind, DataType::Timestamp(..));
    if counts(of) && counts(to) && !is_wider(of, to) { kept(cast) } else { cast }
}

/// The plan without what [`types`] held casts with.
pub(super) fn release(plan: LogicalPlan) -> Result<LogicalPlan> {
    let open = |part: Expr| match part {
        Expr::ScalarFunction(mut call) if call.func.inner().is::<Keep>() && call.args.len() == 1 => {
            Ok(Transformed::yes(call.args.remove(0)))
        }
        other => Ok(Transformed::no(other)),
    };
    let released = plan.transform_up(|node: LogicalPlan| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(open)?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(released.data)
}
