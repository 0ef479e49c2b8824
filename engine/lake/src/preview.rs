//! What a lake would do: looks at the newest records of a stream, and writes nothing.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use millstream_protocol::frame::control::{LakeColumn, LakeColumns, LakeConfig, LakeFormat, LakePreview};
use millstream_protocol::limits::LAKE_PREVIEW_PATHS_MAX;
use millstream_protocol::{Offset, PartitionId};

use crate::file::{extension, object};
use crate::json::Parser;
use crate::layout::{ERRORS, Layout};
use crate::manifest::columns;
use crate::schema::{Columns, Schema, parse_declared, raw_schema};
use crate::shred::{Shredded, Shredder};
use crate::walk::{Item, walk_chunk};
use crate::{LakeError, Source, plan};

/// What the newest records showed.
struct Seen {
    layout: Layout,
    is_raw: bool,
    /// The schema as far as it is known, for records that have columns.
    schema: Option<Schema>,
    declared: Option<Shredder>,
    records: u64,
    objects: u64,
    fields: HashSet<String>,
    /// By directory: a partition, and the first and last offset there.
    directories: BTreeMap<String, (PartitionId, Offset, Offset)>,
    rejected: u64,
    reason: String,
}

/// Looks at the newest `records` records of all partitions together.
pub(crate) fn preview(
    config: &LakeConfig,
    sources: &[Arc<dyn Source>],
    records: u32,
) -> Result<LakePreview, LakeError> {
    let illegal = |error: &dyn std::fmt::Display| LakeError::IllegalConfig(error.to_string());
    let declared = match &config.columns {
        LakeColumns::Declared(text) => Some(parse_declared(text).map_err(|error| illegal(&error))?),
        _ => None,
    };
    let mut seen = Seen {
        layout: Layout::parse(&config.layout).map_err(|error| illegal(&error))?,
        is_raw: config.columns == LakeColumns::Raw,
        schema: (config.format == LakeFormat::Parquet).then(Schema::default),
        declared: declared.clone().map(|schema| Shredder::new(schema, 0)),
        records: 0,
        objects: 0,
        fields: declared.iter().flat_map(|schema| schema.fields.iter()).map(|field| field.name.clone()).collect(),
        directories: BTreeMap::new(),
        rejected: 0,
        reason: String::new(),
    };
    let each = u64::from(records).div_ceil(sources.len().max(1) as u64);
    for source in sources {
        let end = source.high_watermark();
        let mut at = Offset(end.0.saturating_sub(each)).max(source.log_start());
        while at < end {
            at = walk_chunk(&**source, at, end, &mut |item| {
                seen.item(source.partition(), item);
                ControlFlow::Continue(())
            })?;
        }
    }
    seen.check_fields(config)?;
    let schema = match (config.format, &config.columns) {
        (LakeFormat::Ndjson, _) => None,
        (_, LakeColumns::Raw) => Some(raw_schema()),
        (_, LakeColumns::Declared(_)) => declared.map(|schema| Columns::new(&schema).written),
        (_, LakeColumns::Inferred) => seen.schema.as_ref().map(|observed| {
            let mut schema = Schema::default();
            schema.absorb(observed);
            Columns::new(&schema).written
        }),
    };
    let columns = schema.map(|schema| columns(&schema)).unwrap_or_default().into_iter();
    let extension = extension(config.format, config.compression);
    let paths = seen.directories.iter().take(LAKE_PREVIEW_PATHS_MAX).map(|(directory, (partition, first, last))| {
        plan::file_name(directory, *partition, *first, *last, if directory == ERRORS { "ndjson" } else { extension })
    });
    Ok(LakePreview {
        records: seen.records,
        columns: columns.map(|column| LakeColumn { name: column.name, kind: column.r#type, id: column.id }).collect(),
        paths: paths.collect(),
        directories: seen.directories.len() as u64,
        rejected: seen.rejected,
        reason: seen.reason,
    })
}

impl Seen {
    fn item(&mut self, partition: PartitionId, item: Item<'_>) {
        let Item::Record { offset, appended, record } = item else { return };
        self.records += 1;
        let mut parser = Parser::default();
        let parsed = object(&mut parser, record.value);
        let rejected = match (&parsed, &mut self.declared) {
            (Err(_), _) if self.is_raw => None,
            (Err(reason), _) => Some(reason.to_string()),
            (Ok(json), Some(declared)) => match declared.push(offset, record.timestamp, json, false) {
                Shredded::Misfit(reason) => Some(reason),
                Shredded::Row | Shredded::Drifts => None,
            },
            (Ok(_), None) => None,
        };
        if let Ok(json) = &parsed {
            self.objects += 1;
            for (key, _) in json.fields() {
                let name = json.string(key);
                if !self.fields.contains(&*name) {
                    self.fields.insert(name.into_owned());
                }
            }
            if let Some(schema) = &mut self.schema {
                schema.observe(json);
            }
        }
        let mut directory = ERRORS.to_owned();
        match rejected {
            None => self.layout.render(parsed.as_ref().ok(), record.timestamp, appended, &mut directory),
            Some(reason) => {
                self.rejected += 1;
                if self.reason.is_empty() {
                    self.reason = format!("partition {partition}, offset {offset}: {reason}");
                }
            }
        }
        let place = self.directories.entry(directory).or_insert((partition, offset, offset));
        if place.0 == partition {
            place.2 = offset;
        }
    }

    /// A template's field that no record has is a slip of the pen. Without records nobody can tell.
    fn check_fields(&self, config: &LakeConfig) -> Result<(), LakeError> {
        if self.objects == 0 {
            return Ok(());
        }
        let unknown = self.layout.fields().into_iter().find(|name| !self.fields.contains(*name));
        let Some(unknown) = unknown else { return Ok(()) };
        let mut known: Vec<&str> = self.fields.iter().map(String::as_str).collect();
        known.sort_unstable();
        let more = if known.len() > 40 { ", …" } else { "" };
        known.truncate(40);
        Err(LakeError::IllegalConfig(format!(
            "the layout {:?} names the field {unknown:?}, which none of the newest {} records of the stream {:?} has; they have \
             {}{more}",
            config.layout,
            self.objects,
            config.stream,
            known.join(", ")
        )))
    }
}
