//! From CEL's syntax tree to ours: every name resolved, every function and its operands checked, constants computed.
//!
//! What would compile and then never match is refused here: unknown names and functions, a text where a truth is due, a
//! pattern or time that cannot be read. Only what depends on the record is left to fail on a record.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use millstream_protocol::limits::FILTER_TEXT_BYTES_MAX;

use crate::error::{FilterInvalid, ValueType};
use crate::evaluate::Evaluation;
use crate::functions::{self, FUNCTIONS, Function, Style};
use crate::node::{Arithmetic, Comparison, Kind, Macro, Node, Root, Sort, Step};
use crate::text::{self, Network};
use crate::value::{Part, Value};

const _: () = assert!(FILTER_TEXT_BYTES_MAX <= u32::MAX as usize, "positions are u32");

type Lowered = Result<Node, FilterInvalid>;

/// What makes an expression of two operands.
type OfTwo = fn(Box<[Node; 2]>) -> Kind;

/// Lowers the tree of `text`.
pub fn lower(text: &str, source: &SourceInfo, tree: &IdedExpr) -> Result<(Node, Roots), FilterInvalid> {
    let mut lowering = Lowering { text, source, variable: None, roots: Roots::default() };
    let node = lowering.expression(tree)?;
    lowering.must_be_truth(&node, "the filter gives", 0)?;
    Ok((node, lowering.roots))
}

/// Which parts of a record a filter names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roots {
    pub headers: bool,
    pub value: bool,
}

struct Lowering<'t> {
    text: &'t str,
    source: &'t SourceInfo,
    /// The variable of the macro around.
    variable: Option<&'t str>,
    roots: Roots,
}

impl<'t> Lowering<'t> {
    fn error(&self, at: usize, reason: impl Into<String>) -> FilterInvalid {
        FilterInvalid::new(self.text, at, reason)
    }

    /// Where a node stands: its operator, or its first character.
    fn at(&self, expr: &IdedExpr) -> usize {
        // The crate gives bytes. Where it gave anything else, that would be no panic but a place that is off.
        let byte = self.source.offset_for(expr.id).map_or(0, |(start, _)| start as usize);
        self.text.floor_char_boundary(byte)
    }

    /// Where the name of a call stands, whose own place is its opening bracket.
    fn name_at(&self, expr: &IdedExpr, name: &str) -> usize {
        let bracket = self.at(expr);
        let before = self.text[..bracket].trim_end();
        if before.ends_with(name) { before.len() - name.len() } else { bracket }
    }

    fn node(&self, expr: &IdedExpr, kind: Kind) -> Node {
        Node { at: self.at(expr) as u32, kind }
    }

    fn expression(&mut self, expr: &'t IdedExpr) -> Lowered {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Ident(name) => self.name(expr, name),
            Expr::Select(select) => {
                let of = self.expression(&select.operand)?;
                Ok(self.select(expr, of, &select.field))
            }
            Expr::List(list) => {
                let elements =
                    list.elements.iter().map(|element| self.expression(element)).collect::<Result<_, _>>()?;
                self.folded(self.node(expr, Kind::List(elements)))
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::Map(_) | Expr::Struct(_) => {
                Err(self.error(self.at(expr), "maps and messages cannot be written in a filter: compare their members"))
            }
            Expr::Comprehension(_) | Expr::Unspecified => Err(self.error(self.at(expr), "this cannot be compiled")),
        }
    }

    fn literal(&self, expr: &IdedExpr, literal: &LiteralValue) -> Lowered {
        let value = match literal {
            LiteralValue::Null => Value::Null,
            LiteralValue::Boolean(truth) => Value::Bool(*truth.inner()),
            LiteralValue::Int(number) => Value::Int(*number.inner()),
            LiteralValue::Double(number) => Value::Double(*number.inner()),
            LiteralValue::String(text) => Value::text(text.inner().to_owned()),
            LiteralValue::Bytes(bytes) => Value::Bytes(Part::Shared(bytes.inner().into())),
            LiteralValue::UInt(number) => {
                let reason = format!("unsigned numbers are not used: write {}", number.inner());
                return Err(self.error(self.at(expr), reason));
            }
        };
        Ok(self.node(expr, Kind::Constant(value)))
    }

    fn name(&mut self, expr: &'t IdedExpr, name: &str) -> Lowered {
        if self.variable == Some(name) {
            return Ok(self.node(expr, Kind::Variable));
        }
        let Some(root) = root_named(name) else {
            let mut reason =
                format!("unknown name `{name}`: a filter reads key, headers, timestamp and value (value.{name}?)");
            if functions::find(name).is_some() || name.starts_with('.') {
                reason = format!("`{name}` is not a value: a filter reads key, headers, timestamp and value");
            }
            return Err(self.error(self.at(expr), reason));
        };
        self.roots.headers |= root == Root::Headers;
        self.roots.value |= root == Root::Value;
        Ok(self.node(expr, Kind::Path(root, Vec::new())))
    }

    fn select(&self, expr: &IdedExpr, of: Node, name: &str) -> Node {
        let at = self.at(expr) as u32;
        match of.kind {
            Kind::Path(root, mut steps) => {
                steps.push(Step { at, name: name.into() });
                Node { at: of.at, kind: Kind::Path(root, steps) }
            }
            _ => Node { at, kind: Kind::Select(Box::new(of), name.into()) },
        }
    }

    fn call(&mut self, expr: &'t IdedExpr, call: &'t CallExpr) -> Lowered {
        let CallExpr { func_name, target, args } = call;
        match (func_name.as_str(), target, &**args) {
            (operators::LOGICAL_OR, None, [a, b]) => self.logical(expr, a, b, Kind::Or, "||"),
            (operators::LOGICAL_AND, None, [a, b]) => self.logical(expr, a, b, Kind::And, "&&"),
            (operators::LOGICAL_NOT, None, [operand]) => {
                let operand = self.expression(operand)?;
                self.must_be_truth(&operand, "`!` turns a truth, this is", operand.at as usize)?;
                self.folded(self.node(expr, Kind::Not(Box::new(operand))))
            }
            (operators::NEGATE, None, [operand]) => {
                let operand = self.expression(operand)?;
                self.folded(self.node(expr, Kind::Negate(Box::new(operand))))
            }
            (operators::CONDITIONAL, None, [condition, yes, no]) => {
                let condition = self.expression(condition)?;
                self.must_be_truth(&condition, "`?` asks for a truth, this is", condition.at as usize)?;
                let operands = [condition, self.expression(yes)?, self.expression(no)?];
                Ok(self.node(expr, Kind::Choose(operands.into())))
            }
            (operators::HAS, None, [operand]) => match &operand.expr {
                Expr::Select(select) => {
                    let of = self.expression(&select.operand)?;
                    let at = self.name_at(expr, operators::HAS) as u32;
                    Ok(Node { at, kind: Kind::Has(of.into(), select.field.as_str().into()) })
                }
                _ => {
                    let reason = "has() asks for a member, as has(value.a); for odd names write \"a.b\" in value";
                    Err(self.error(self.at(operand), reason))
                }
            },
            (_, Some(range), [variable, bodies @ ..]) if macro_named(func_name).is_some() => {
                self.each(expr, func_name, range, variable, bodies)
            }
            (name, None, [a, b]) => match operator_named(name) {
                Some(kind) => {
                    let operands = [self.expression(a)?, self.expression(b)?];
                    self.folded(self.node(expr, kind(operands.into())))
                }
                None => self.function(expr, call),
            },
            _ => self.function(expr, call),
        }
    }

    fn logical(
        &mut self,
        expr: &'t IdedExpr,
        left: &'t IdedExpr,
        right: &'t IdedExpr,
        kind: OfTwo,
        sign: &str,
    ) -> Lowered {
        let operands = [self.expression(left)?, self.expression(right)?];
        for operand in &operands {
            self.must_be_truth(operand, &format!("`{sign}` joins truths, this is"), operand.at as usize)?;
        }
        self.folded(self.node(expr, kind(operands.into())))
    }

    fn function(&mut self, expr: &'t IdedExpr, call: &'t CallExpr) -> Lowered {
        let name = call.func_name.as_str();
        let at = self.name_at(expr, name);
        let Some(entry) = functions::find(name) else { return Err(self.error(at, unknown_function(name))) };
        let style_fits = match entry.style {
            Style::Global => call.target.is_none(),
            Style::Member => call.target.is_some(),
            Style::Both => true,
        };
        let operands: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        if !style_fits || operands.len() != entry.operands {
            let utc = if matches!(entry.function, Function::Clock(_)) { " (times are UTC)" } else { "" };
            return Err(self.error(at, format!("`{name}` is called as {entry}{utc}")));
        }
        let operands = operands.into_iter().map(|operand| self.expression(operand)).collect::<Result<Vec<_>, _>>()?;
        let node = Node { at: at as u32, kind: Kind::Call(entry.function, operands) };
        let node = self.folded(node)?;
        self.with_pattern_read(node)
    }

    /// Reads a constant network once; refuses a constant pattern that is none.
    fn with_pattern_read(&self, node: Node) -> Lowered {
        let Kind::Call(function, operands) = &node.kind else { return Ok(node) };
        let [_, Node { at, kind: Kind::Constant(pattern) }] = &**operands else { return Ok(node) };
        let at = *at as usize;
        let pattern = match (function.takes_texts(), pattern) {
            (false, _) => return Ok(node),
            (true, Value::Text(pattern)) => pattern,
            (true, other) => {
                return Err(self.error(at, format!("`{}` takes a string here, not {}", function.name(), other.kind())));
            }
        };
        match function {
            Function::InCidr => {
                let reason = "this is no network: write an address and a prefix, as 10.0.0.0/8 or 2001:db8::/32";
                let network = Network::parse(pattern).ok_or_else(|| self.error(at, reason))?;
                let Kind::Call(_, operands) = node.kind else { unreachable!("it was a call above") };
                let address = operands.into_iter().next().expect("a call of two operands has a first");
                Ok(Node { at: node.at, kind: Kind::InNetwork(address.into(), network) })
            }
            Function::Subject if text::subject("", pattern).is_none() => {
                let reason =
                    "this is no subject pattern: tokens with dots between, `*` for one, `>` for the rest at the end";
                Err(self.error(at, reason))
            }
            _ => Ok(node),
        }
    }

    fn each(
        &mut self,
        expr: &'t IdedExpr,
        name: &str,
        range: &'t IdedExpr,
        variable: &'t IdedExpr,
        bodies: &'t [IdedExpr],
    ) -> Lowered {
        let at = self.name_at(expr, name);
        let kind = macro_named(name).expect("the caller asked");
        if self.variable.is_some() {
            return Err(self.error(at, format!("`{name}` inside another macro: macros do not nest in a filter")));
        }
        if bodies.is_empty() || bodies.len() > if kind == Macro::Map { 2 } else { 1 } {
            return Err(self.error(at, format!("`{name}` is called as list.{name}(variable, expression)")));
        }
        let Expr::Ident(variable_name) = &variable.expr else {
            return Err(self.error(self.at(variable), format!("`{name}` begins with the name of a variable, as x")));
        };
        if root_named(variable_name).is_some() || variable_name.starts_with('.') {
            let reason = format!("a variable cannot be named `{variable_name}`: choose another name, as x");
            return Err(self.error(self.at(variable), reason));
        }
        let range = self.expression(range)?;
        self.variable = Some(variable_name);
        let bodies = bodies.iter().map(|body| self.expression(body)).collect::<Result<Vec<_>, _>>();
        self.variable = None;
        let bodies = bodies?;
        if kind != Macro::Map || bodies.len() == 2 {
            self.must_be_truth(&bodies[0], &format!("`{name}` asks for a truth, this is"), bodies[0].at as usize)?;
        }
        let at = at as u32;
        let mut bodies = bodies.into_iter();
        Ok(match (bodies.next(), bodies.next()) {
            (Some(body), None) => Node { at, kind: Kind::Each(kind, [range, body].into()) },
            (Some(condition), Some(body)) => Node { at, kind: Kind::MapIf([range, condition, body].into()) },
            (None, _) => unreachable!("the number of bodies was checked"),
        })
    }

    /// Refuses what never is a truth.
    fn must_be_truth(&self, node: &Node, what: &str, at: usize) -> Result<(), FilterInvalid> {
        let kind = match node.sort() {
            Sort::Open | Sort::Of(ValueType::Bool) => return Ok(()),
            Sort::Of(kind) => kind.to_string(),
            Sort::NoTruth => "a number, string, list or time".into(),
        };
        Err(self.error(at, format!("{what} {kind}, never true or false: compare it with something")))
    }

    /// Computes what is made of constants only.
    fn folded(&self, node: Node) -> Lowered {
        let is_constant = |node: &Node| matches!(node.kind, Kind::Constant(_));
        let all_constant = match &node.kind {
            Kind::List(operands) | Kind::Call(_, operands) => operands.iter().all(is_constant),
            Kind::Not(operand) | Kind::Negate(operand) => is_constant(operand),
            Kind::Or(operands) | Kind::And(operands) | Kind::Equal(operands) | Kind::Unequal(operands) => {
                operands.iter().all(is_constant)
            }
            Kind::Index(operands) | Kind::In(operands) => operands.iter().all(is_constant),
            Kind::Order(_, operands) | Kind::Arithmetic(_, operands) => operands.iter().all(is_constant),
            _ => false,
        };
        if !all_constant {
            return Ok(node);
        }
        let value = match Evaluation::of_constants().value(&node) {
            Ok(value) => value.to_static(),
            Err(error) => return Err(self.error(error.position, format!("this has no value: {}", error.reason))),
        };
        Ok(match value {
            Some(value) => Node { at: node.at, kind: Kind::Constant(value) },
            None => node,
        })
    }
}

fn root_named(name: &str) -> Option<Root> {
    match name {
        "key" => Some(Root::Key),
        "headers" => Some(Root::Headers),
        "timestamp" => Some(Root::Timestamp),
        "value" => Some(Root::Value),
        _ => None,
    }
}

fn macro_named(name: &str) -> Option<Macro> {
    match name {
        operators::ALL => Some(Macro::All),
        operators::EXISTS => Some(Macro::Exists),
        operators::EXISTS_ONE | "existsOne" => Some(Macro::ExistsOne),
        operators::FILTER => Some(Macro::Filter),
        operators::MAP => Some(Macro::Map),
        _ => None,
    }
}

fn operator_named(name: &str) -> Option<OfTwo> {
    Some(match name {
        operators::EQUALS => Kind::Equal,
        operators::NOT_EQUALS => Kind::Unequal,
        operators::LESS => |operands| Kind::Order(Comparison::Less, operands),
        operators::LESS_EQUALS => |operands| Kind::Order(Comparison::AtMost, operands),
        operators::GREATER => |operands| Kind::Order(Comparison::Greater, operands),
        operators::GREATER_EQUALS => |operands| Kind::Order(Comparison::AtLeast, operands),
        operators::ADD => |operands| Kind::Arithmetic(Arithmetic::Add, operands),
        operators::SUBSTRACT => |operands| Kind::Arithmetic(Arithmetic::Subtract, operands),
        operators::MULTIPLY => |operands| Kind::Arithmetic(Arithmetic::Multiply, operands),
        operators::DIVIDE => |operands| Kind::Arithmetic(Arithmetic::Divide, operands),
        operators::MODULO => |operands| Kind::Arithmetic(Arithmetic::Remainder, operands),
        operators::IN => Kind::In,
        operators::INDEX => Kind::Index,
        _ => return None,
    })
}

fn unknown_function(name: &str) -> String {
    if name == "matches" {
        return "regular expressions are off in filters: use like(text, pattern), startsWith, endsWith or contains"
            .into();
    }
    if macro_named(name).is_some() {
        return format!("`{name}` is called as list.{name}(variable, expression)");
    }
    if name == operators::HAS {
        return "`has` is called as has(value.a)".into();
    }
    if let Some(entry) = FUNCTIONS.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)) {
        return format!("unknown function `{name}`: write {entry}");
    }
    let names: Vec<&str> = FUNCTIONS.iter().map(|entry| entry.name).collect();
    format!("unknown function `{name}`: there are has, all, exists, exists_one, filter, map, {}", names.join(", "))
}
