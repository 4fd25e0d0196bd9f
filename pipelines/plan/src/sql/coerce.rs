//! Types of operands as PostgreSQL sees them, made explicit before DataFusion finds common ones by its own rules.
//!
//! A number with a point is a decimal, and becomes a float where it meets one; a quotient of decimals has at least sixteen digits behind
//! the point; a cast to an integer rounds; and text is never taken for a number.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError, Diagnostic, Result, ScalarValue};
use datafusion_expr::expr::{Between, Case, InList, ScalarFunction};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF, TryCast};

use super::checked::{is_comparison, is_wider};
use super::udf::{Keep, RoundToEven};

/// Digits of the widest decimal that a column may have.
const MAX_PRECISION: i16 = 38;
/// Digits behind the point that a quotient has at least, where there is room (PostgreSQL: `NUMERIC_MIN_SIG_DIGITS`).
const QUOTIENT_SCALE: i16 = 16;
/// Digits that Arrow adds to the scale of a dividend.
const ARROW_SCALE: i16 = 4;
/// Functions that give one of their arguments: all are of one type.
const CHOICES: &[&str] = &["coalesce", "nullif", "nvl", "ifnull", "greatest", "least"];
/// Functions that compute with decimals exactly. Others compute with floats, so they are given floats.
const EXACT: &[&str] = &["abs", "ceil", "floor", "round", "trunc", "signum", "arrow_typeof"];

/// The same plan with explicit casts.
///
/// # Errors
/// Where text meets a number.
pub(super) fn types(plan: LogicalPlan) -> Result<LogicalPlan> {
    let explicit = |node: LogicalPlan| {
        let schema = merge_schema(&node.inputs());
        if let LogicalPlan::Join(join) = &node {
            for (left, right) in &join.on {
                comparable(left, &left.get_type(&schema)?, right, &right.get_type(&schema)?)?;
            }
        }
        let names = NamePreserver::new(&node);
        let rewritten = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(|part| rewrite(part, &schema))?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        rewritten.map_data(LogicalPlan::recompute_schema)
    };
    Ok(plan.transform_up(explicit)?.data)
}

fn rewrite(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match part {
        Expr::BinaryExpr(binary) => return operands(binary, schema),
        Expr::Between(between) => {
            let of = between.expr.get_type(schema)?;
            let (low, high) = (between.low.get_type(schema)?, between.high.get_type(schema)?);
            comparable(&between.expr, &of, &between.low, &low)?;
            comparable(&between.expr, &of, &between.high, &high)?;
            let [value, low, high] = alike([*between.expr, *between.low, *between.high], schema)?;
            Expr::Between(Between::new(Box::new(value), between.negated, Box::new(low), Box::new(high)))
        }
        Expr::InList(list) => {
            let of = list.expr.get_type(schema)?;
            for member in &list.list {
                comparable(&list.expr, &of, member, &member.get_type(schema)?)?;
            }
            let mut all = vec![*list.expr];
            all.extend(list.list);
            let mut all = alike_all(all, schema)?.into_iter();
            let value = all.next().expect("the value stands first");
            Expr::InList(InList::new(Box::new(value), all.collect(), list.negated))
        }
        Expr::Case(case) => choose(case, schema)?,
        Expr::ScalarFunction(call) if CHOICES.contains(&call.func.name()) => {
            let args = alike_all(call.args, schema)?;
            Expr::ScalarFunction(ScalarFunction::new_udf(call.func, args))
        }
        Expr::ScalarFunction(call) if !EXACT.contains(&call.func.name()) => {
            let args = call.args.into_iter().map(literal_to_float).collect();
            Expr::ScalarFunction(ScalarFunction::new_udf(call.func, args))
        }
        Expr::Cast(Cast { expr, field }) => {
            let of = expr.get_type(schema)?;
            let to = field.data_type().clone();
            lossy(Expr::Cast(Cast { expr: Box::new(rounded(*expr, &of, &to)), field }), &of, &to)
        }
        Expr::TryCast(TryCast { expr, field }) => {
            let of = expr.get_type(schema)?;
            let to = field.data_type().clone();
            lossy(Expr::TryCast(TryCast { expr: Box::new(rounded(*expr, &of, &to)), field }), &of, &to)
        }
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(changed))
}

fn operands(binary: BinaryExpr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let BinaryExpr { left, op, right } = binary;
    let unchanged = |left, right| Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr::new(left, op, right))));
    if !(is_comparison(op) || op.is_numerical_operators()) {
        return unchanged(left, right);
    }
    let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
    comparable(&left, &left_type, &right, &right_type)?;
    if left_type.is_floating() && right_type.is_decimal() {
        let right = Box::new(to_float(*right));
        return Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, op, right))));
    }
    if left_type.is_decimal() && right_type.is_floating() {
        let left = Box::new(to_float(*left));
        return Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, op, right))));
    }
    if is_comparison(op) && (is_date(&left_type) || is_date(&right_type)) {
        let [left, right] = alike([*left, *right], schema)?;
        return Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))));
    }
    let exact = left_type.is_decimal() || right_type.is_decimal();
    match (digits(&left, &left_type), digits(&right, &right_type)) {
        (Some(of), Some(by)) if exact && op == Operator::Divide => {
            match quotient(*left.clone(), of, *right.clone(), by) {
                Some(quotient) => Ok(Transformed::yes(quotient)),
                None => unchanged(left, right),
            }
        }
        (Some(a), Some(b)) if exact && op == Operator::Multiply => match product(&left, a, &right, b) {
            Some(product) => Ok(Transformed::yes(product)),
            None => unchanged(left, right),
        },
        _ => unchanged(left, right),
    }
}

/// Precision and scale of a number that is exact.
fn digits(expr: &Expr, data_type: &DataType) -> Option<(i16, i16)> {
    if let Expr::Literal(ScalarValue::Int64(Some(value)), _) = expr {
        return Some((i16::try_from(value.unsigned_abs().to_string().len()).ok()?, 0));
    }
    Some(match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            (i16::from(*precision), i16::from(*scale))
        }
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::UInt64 => (20, 0),
        _ => return None,
    })
}

/// A quotient with a useful number of digits, rounded. Arrow's own has four more than the dividend and cuts off the rest; so the
/// dividend is widened, for one digit more than is wanted.
fn quotient(left: Expr, of: (i16, i16), right: Expr, by: (i16, i16)) -> Option<Expr> {
    let whole = of.0 - of.1 + by.1;
    let least = of.1.max(by.1);
    let wanted = (MAX_PRECISION - whole).clamp(least, least.max(QUOTIENT_SCALE));
    let scale = (wanted + 1 - ARROW_SCALE).max(of.1);
    let precision = of.0 - of.1 + scale;
    let result = decimal((whole + wanted).min(MAX_PRECISION), wanted)?;
    let (left, right) = if precision + ARROW_SCALE + by.1 <= MAX_PRECISION {
        (cast(left, decimal(precision, scale)?), right)
    } else {
        (cast(left, wide(precision, scale)?), cast(right, wide(by.0, by.1)?))
    };
    Some(kept(cast(binary(left, Operator::Divide, right), result)))
}

/// A product that would have more digits than there is room for, where a factor was rounded already: with as many as that one has.
/// Exact factors have an exact product, or none.
fn product(left: &Expr, a: (i16, i16), right: &Expr, b: (i16, i16)) -> Option<Expr> {
    let (whole, least, exact) = (a.0 - a.1 + b.0 - b.1 + 1, a.1.max(b.1), a.1 + b.1);
    let wanted = (MAX_PRECISION - whole).clamp(least, exact);
    if wanted == exact || !(is_rounded(left) || is_rounded(right)) {
        return None;
    }
    let left = cast(left.clone(), wide(a.0, a.1)?);
    let right = cast(right.clone(), wide(b.0, b.1)?);
    let result = decimal(MAX_PRECISION, wanted)?;
    Some(kept(cast(binary(left, Operator::Multiply, right), result)))
}

/// Whether [`quotient`] or [`product`] made it.
fn is_rounded(expr: &Expr) -> bool {
    let Expr::ScalarFunction(call) = expr else { return false };
    let [Expr::Cast(cast)] = call.args.as_slice() else { return false };
    call.func.inner().is::<Keep>() && matches!(*cast.expr, Expr::BinaryExpr(_))
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn decimal(precision: i16, scale: i16) -> Option<DataType> {
    let precision = u8::try_from(precision).ok().filter(|precision| (1..=38).contains(precision))?;
    Some(DataType::Decimal128(precision, i8::try_from(scale).ok()?))
}

/// For steps in between, which have twice as many digits.
fn wide(precision: i16, scale: i16) -> Option<DataType> {
    Some(DataType::Decimal256(u8::try_from(precision.clamp(1, 76)).ok()?, i8::try_from(scale).ok()?))
}

fn choose(case: Case, schema: &DFSchema) -> Result<Expr> {
    let Case { expr, when_then_expr, else_expr } = case;
    let (mut whens, thens): (Vec<Expr>, Vec<Expr>) =
        when_then_expr.into_iter().map(|(when, then)| (*when, *then)).unzip();
    let mut value = None;
    if let Some(expr) = expr {
        let of = expr.get_type(schema)?;
        for when in &whens {
            comparable(&expr, &of, when, &when.get_type(schema)?)?;
        }
        whens.insert(0, *expr);
        whens = alike_all(whens, schema)?;
        value = Some(Box::new(whens.remove(0)));
    }
    let last = else_expr.is_some();
    let mut thens = alike_all(thens.into_iter().chain(else_expr.map(|expr| *expr)).collect(), schema)?;
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

fn alike<const N: usize>(exprs: [Expr; N], schema: &DFSchema) -> Result<[Expr; N]> {
    let all = alike_all(exprs.into(), schema)?;
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
    static ROUND: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(RoundToEven::default())));
    match of {
        DataType::Float32 | DataType::Float64 => {
            Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&ROUND), vec![expr]))
        }
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

/// A cast that may give several values the same one.
fn lossy(cast: Expr, of: &DataType, to: &DataType) -> Expr {
    let counts = |kind: &DataType| kind.is_numeric() || matches!(kind, DataType::Timestamp(..));
    if counts(of) && counts(to) && !is_wider(of, to) { kept(cast) } else { cast }
}

/// Holds a lossy cast where it is while the plan is simplified: DataFusion moves casts in comparisons to the other side, as if
/// `CAST(1.005 AS DECIMAL(10, 2)) = 1.01` were `1.005 = 1.010`.
fn kept(cast: Expr) -> Expr {
    static KEEP: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(Keep::default())));
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&KEEP), vec![cast]))
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

fn cast(expr: Expr, to: DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), to))
}

/// Refuses text beside a number. A quoted literal has no type of its own, and takes that of the other side.
fn comparable(left: &Expr, left_type: &DataType, right: &Expr, right_type: &DataType) -> Result<()> {
    let is_text = |expr: &Expr, of: &DataType| of.is_string() && !matches!(expr, Expr::Literal(..));
    let mixed = (is_text(left, left_type) && right_type.is_numeric())
        || (is_text(right, right_type) && left_type.is_numeric());
    if !mixed {
        return Ok(());
    }
    let kind = millstream_connect_api::types::type_name;
    let message = format!("{} and {} cannot be compared or computed with", kind(left_type), kind(right_type));
    let column = |expr: &Expr| match expr {
        Expr::Column(column) => column.spans.first(),
        _ => None,
    };
    let found = Diagnostic::new_error(message.clone(), column(left).or_else(|| column(right)))
        .with_help("CAST one side to the type of the other; TRY_CAST gives null where that fails", None);
    Err(DataFusionError::Plan(message).with_diagnostic(found))
}
