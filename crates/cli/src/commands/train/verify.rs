use evalign_core::Dtype;
use evalign_lm::LoadOptions;
use evalign_train::{Certificate, verify as compare};

use crate::Verdict;
use crate::args::VerifyCaseArgs;
use crate::output::{Failure, Output, Table};

pub(super) fn verify(args: &VerifyCaseArgs, output: Output) -> Result<Verdict, Failure> {
    let load = LoadOptions {
        device: args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        dtype: Some(Dtype::F32),
        ..LoadOptions::default()
    };
    let mut certificates = Vec::new();
    for case in &args.cases {
        let work = tempfile::tempdir().map_err(Failure::from_io)?;
        certificates.push(compare(case, work.path(), &load)?);
    }
    if args.json {
        output.json(&certificates)?;
    } else {
        for certificate in &certificates {
            output.result(&text(certificate))?;
        }
    }
    Ok(if certificates.iter().all(Certificate::agrees) { Verdict::Good } else { Verdict::Failed })
}

fn text(certificate: &Certificate) -> String {
    let mut table = Table::new(&["compared", "numbers", "worst", "limit", "differ"], &[1, 2, 3, 4]);
    let number =
        |value: Option<f64>| value.map_or_else(|| "equal".to_owned(), |value| format!("{value:.1e}"));
    for check in &certificate.checks {
        table.push(vec![
            check.quantity.clone(),
            check.compared.to_string(),
            if check.worst.is_none() && check.failures > 0 {
                "unequal".to_owned()
            } else {
                number(check.worst)
            },
            number(check.limit),
            check.failures.to_string(),
        ]);
    }
    let verdict = if certificate.agrees() { "agrees with the record" } else { "differs from the record" };
    let mut lines = vec![format!("{}: {verdict}", certificate.case), table.text()];
    if !certificate.arguments_not_read.is_empty() {
        lines.push(format!(
            "arguments of the record that are not read: {}",
            certificate.arguments_not_read.join(", ")
        ));
    }
    let failed = certificate.checks.iter().filter_map(|check| Some((check, check.first_failure.as_ref()?)));
    lines.extend(failed.map(|(check, place)| format!("first difference, {}: {place}", check.quantity)));
    lines.join("\n")
}
