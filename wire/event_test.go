package wire

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

// keylimeEvents are the ids of Keylime 7.14.3 by component; N stands for a PCR, and <name> for a word of the user's.
var keylimeEvents = map[string]string{
	"qoute_validation": "quote_validation invalid_data no_pubkey invalid_hash_alg invalid_enc_alg invalid_sign_alg invalid_ima_entry_nb invalid_quote",
	"pcr_validation":   "invalid_pcr_N missing_pcr_16 missing_pcrs unused_pcr_N invalid_mb_policy invalid_measured_boot_evaluate",
	"measured_boot": "invalid_pcr_N policy_<name> missing_pcrs parser.tpm2_eventlog.error parser.yaml parser.bootlog_enrich parser.invalid_pcrs " +
		"parser.invalid_pcrs_hashes parser.invalid_boot_aggregates",
	"ima": "pcr_mismatch quote_progress parser.entry validation.ima_pcr validation.tomtou validation.ima_hash validation.no_validator " +
		"validation.ima-ng.not_in_allowlist validation.ima-ng.runtime_policy_hash validator.ima-sig.invalid_signature invalid_key validation.dm.<name>",
	"internal":        "verifier.not_reachable verifier.not_reachable_v verifier.no_quote verifier.no_v verifier.version_not_supported verifier.exception",
	"tee_attestation": "invalid_input vcek_fetch invalid_public_key invalid_signature freshness_hash_failed",
}

// Each failure has one id, which is Keylime's, and each of Keylime's ids means one of our failures. An id that stands for one of ours alone comes back.
func TestEventsComplete(t *testing.T) {
	known := map[string]bool{}
	for component, list := range keylimeEvents {
		for _, event := range strings.Fields(list) {
			id := component + "." + strings.ReplaceAll(event, "<name>", "secure_boot")
			known[id] = true
			id = strings.Replace(id, "_N", "_7", 1)
			if got, ok := ParseEvent(id); !ok || !isFailure(got.Failure) || (got.PCR != nil) != strings.HasSuffix(event, "_N") {
				t.Errorf("%s means %+v, %v", id, got, ok)
			}
		}
	}
	rows := map[attest.FailureID]int{}
	for _, row := range events {
		rows[row.failure]++
	}
	for _, info := range attest.Infos() {
		if rows[info.ID] != 1 {
			t.Errorf("%s has %d rows", info.ID, rows[info.ID])
		}
		delete(rows, info.ID)
		id := Event{Failure: info.ID, PCR: new(7)}.ID()
		if !known[strings.Replace(id, "_7", "_N", 1)] && id != "pcr_validation.invalid_pcr_16" {
			t.Errorf("%s: Keylime has no event %s", info.ID, id)
		}
		if parsed, ok := ParseEvent(id); !ok || parsed.ID() != id {
			t.Errorf("%s: %s comes back as %+v", info.ID, id, parsed)
		}
	}
	if len(rows) > 0 {
		t.Errorf("rows of no failure: %v", rows)
	}
}

func isFailure(id attest.FailureID) bool {
	return slices.ContainsFunc(attest.Infos(), func(info attest.FailureInfo) bool { return info.ID == id })
}

func TestEventID(t *testing.T) {
	for _, row := range []struct {
		event Event
		want  string
	}{
		{Event{Failure: attest.QuoteSignatureInvalid}, "qoute_validation.quote_validation"},
		{Event{Failure: attest.ClockRollback, PCR: new(3)}, "qoute_validation.quote_validation"},
		{Event{Failure: attest.PcrValueNotAllowed, PCR: new(0)}, "pcr_validation.invalid_pcr_0"},
		{Event{Failure: attest.PcrValueNotAllowed}, "pcr_validation.invalid_pcr"},
		{Event{Failure: attest.EventLogPcrMismatch, PCR: new(14)}, "measured_boot.invalid_pcr_14"},
		{Event{Failure: attest.TransportKeyMismatch}, "pcr_validation.invalid_pcr_16"},
		{Event{Failure: "Forgotten"}, "internal.verifier.exception"},
		{Event{}, "internal.verifier.exception"},
	} {
		if got := row.event.ID(); got != row.want {
			t.Errorf("%+v: %s, want %s", row.event, got, row.want)
		}
	}
}

func TestParseEvent(t *testing.T) {
	for id, want := range map[string]Event{
		"pcr_validation.invalid_pcr_16":       {Failure: attest.TransportKeyMismatch},
		"pcr_validation.invalid_pcr_1":        {Failure: attest.PcrValueNotAllowed, PCR: new(1)},
		"pcr_validation.invalid_pcr":          {Failure: attest.PcrValueNotAllowed},
		"pcr_validation.unused_pcr_10":        {Failure: attest.EvidenceMissing, PCR: new(10)},
		"measured_boot.policy_secure_boot":    {Failure: attest.PcrValueNotAllowed},
		"ima.validation.dm.device_not_listed": {Failure: attest.FileNotInPolicy},
		"ima.validator.ima-sig.invalid_key":   {Failure: attest.FileSignatureInvalid},
	} {
		got, ok := ParseEvent(id)
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%s: %v %s", id, ok, diff)
		}
	}
	for _, id := range []string{
		"", "quote_validation.quote_validation", "pcr_validation.invalid_pcr_", "pcr_validation.invalid_pcr_N", "pcr_validation.invalid_pcr_24",
		"pcr_validation.invalid_pcr_-1", "pcr_validation.invalid_pcr_07", "pcr_validation.invalid_pcr_1x", "pcr_validation.invalid_pcr7",
		"measured_boot.policy_", "ima.validation.dm.", "ima.validation", "ima.pcr_mismatch.more",
	} {
		if got, ok := ParseEvent(id); ok {
			t.Errorf("%q means %+v, want nothing", id, got)
		}
	}
}

// Keylime's verifier reported these of machines whose faults are known; the same faults have these names here.
func TestEventsCaptured(t *testing.T) {
	var all []struct {
		Origin  string
		Msg     string
		Failure attest.FailureID
	}
	readJSON(t, "events.json", &all)
	for _, capture := range all {
		var message struct {
			EventID string `json:"event_id"`
		}
		if err := json.Unmarshal([]byte(capture.Msg), &message); err != nil {
			t.Fatalf("%s: %v", capture.Origin, err)
		}
		event, ok := ParseEvent(message.EventID)
		if !ok || event.Failure != capture.Failure || event.ID() != message.EventID {
			t.Errorf("%s: %s means %+v, want %s", capture.Origin, message.EventID, event, capture.Failure)
		}
	}
	if len(all) != 3 {
		t.Errorf("%d captures, want 3", len(all))
	}
}
