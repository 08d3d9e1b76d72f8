package wire

import (
	"strings"
	"testing"
)

func TestAgentBodiesBothWays(t *testing.T) {
	roundTrip[Envelope[AgentVersionResults]](t, captured(t, "agent.json", "version").Response)
	roundTrip[Envelope[PubkeyResults]](t, captured(t, "agent.json", "pubkey").Response)
	for _, name := range []string{"info", "info ecc"} {
		info := roundTrip[Envelope[AgentInfo]](t, captured(t, "agent.json", name).Response)
		if info.Results.AKHandle>>24 != 0x40 {
			t.Errorf("%s: handle %#x", name, info.Results.AKHandle)
		}
	}
	for _, name := range []string{"identity", "identity ecc", "integrity beyond the end", "integrity no list selected", "integrity partial list"} {
		t.Run(name, func(t *testing.T) {
			results := roundTrip[Envelope[QuoteResults]](t, captured(t, "agent.json", name).Response).Results
			if hasList := strings.HasPrefix(name, "integrity"); hasList != (results.ImaMeasurementList != nil) || hasList != (results.ImaMeasurementListEntry != nil) {
				t.Errorf("list %v, entry %v", results.ImaMeasurementList, results.ImaMeasurementListEntry)
			}
		})
	}
}

// An empty list says that there is nothing new and must not read as no list.
func TestEmptyListIsAList(t *testing.T) {
	body := `{"quote":"r","hash_alg":"","enc_alg":"","sign_alg":"","ima_measurement_list":"","ima_measurement_list_entry":0}`
	if r := roundTrip[QuoteResults](t, body); r.ImaMeasurementList == nil || r.ImaMeasurementListEntry == nil {
		t.Errorf("got %+v", r)
	}
}
