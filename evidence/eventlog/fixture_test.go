package eventlog_test

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

// machine is one captured boot; testdata/README.md tells its origin.
type machine struct {
	name      string
	log       []byte
	banks     map[attest.Hash]pcr.Values
	aggregate attest.Digest
}

// listPCRs are extended by IMA after the boot log ends.
var listPCRs = pcr.Select(attest.SHA256, 10, 11)

func readMachines(t testing.TB) []machine {
	t.Helper()
	folders, err := filepath.Glob("testdata/fx-ovmf-*")
	if err != nil || len(folders) != 4 {
		t.Fatalf("%d machines in testdata, want 4 (%v)", len(folders), err)
	}
	machines := make([]machine, 0, len(folders))
	for _, folder := range folders {
		m := machine{name: filepath.Base(folder), log: readFile(t, folder, "binary_bios_measurements"), banks: readPCRs(t, folder)}
		words := strings.Fields(string(readFile(t, folder, "boot_aggregate")))
		if m.aggregate, err = attest.ParseDigest(words[3]); err != nil {
			t.Fatal(err)
		}
		machines = append(machines, m)
	}
	return machines
}

func readFile(t testing.TB, folder, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readPCRs(t testing.TB, folder string) map[attest.Hash]pcr.Values {
	t.Helper()
	banks := map[attest.Hash]pcr.Values{}
	lines := bufio.NewScanner(bytes.NewReader(readFile(t, folder, "pcrs.txt")))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		digest, err := attest.ParseDigest(words[0] + ":" + strings.ToLower(words[2]))
		if err != nil {
			t.Fatal(err)
		}
		index, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		if banks[digest.Hash()].Digests == nil {
			banks[digest.Hash()] = pcr.Values{Bank: digest.Hash(), Digests: map[int]attest.Digest{}}
		}
		banks[digest.Hash()].Digests[index] = digest
	}
	return banks
}

func parse(t testing.TB, data []byte) eventlog.Log {
	t.Helper()
	log, err := eventlog.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func verified(t testing.TB, values pcr.Values) quote.Verified {
	t.Helper()
	return quotetest.Verified(t, values, quote.Clock{Clock: 1})
}

func TestCapturedLogsReplayInEveryBank(t *testing.T) {
	for _, m := range readMachines(t) {
		log := parse(t, m.log)
		if diff := cmp.Diff(attest.Hashes(), log.Banks()); diff != "" {
			t.Errorf("%s: banks (-want +got):\n%s", m.name, diff)
		}
		for _, bank := range attest.Hashes() {
			t.Run(m.name+"/"+bank.String(), func(t *testing.T) {
				replayed, failures := log.Replay(verified(t, m.banks[bank]), listPCRs)
				if len(failures) > 0 || !replayed.Valid() || replayed.Bank() != bank {
					t.Fatalf("valid %t, bank %s, failures %v", replayed.Valid(), replayed.Bank(), failures)
				}
				for p := range 16 {
					value, ok := replayed.Value(p)
					if ok == listPCRs.Has(p) || ok && value != m.banks[bank].Digests[p] {
						t.Errorf("PCR %d: %s, %t", p, value, ok)
					}
				}
				if _, ok := replayed.Value(16); ok {
					t.Error("PCR 16 is resettable and was compared")
				}
			})
		}
	}
}

func TestCapturedBootAggregates(t *testing.T) {
	for _, m := range readMachines(t) {
		replayed, failures := parse(t, m.log).Replay(verified(t, m.banks[m.aggregate.Hash()]), listPCRs)
		if len(failures) > 0 {
			t.Fatal(failures)
		}
		got := replayed.BootAggregates()
		if len(got) != 2 || got[1] != m.aggregate {
			t.Errorf("%s: %v, want the list's %s as the second", m.name, got, m.aggregate)
		}
	}
}

// Of four boots with different command lines each log replays to its own machine's PCRs only.
func TestLogOfAnotherBootIsRefused(t *testing.T) {
	machines := readMachines(t)
	for i, m := range machines {
		other := machines[(i+1)%len(machines)]
		replayed, failures := parse(t, other.log).Replay(verified(t, m.banks[attest.SHA256]), listPCRs)
		if len(failures) == 0 || failures[0].ID != attest.EventLogPcrMismatch || replayed.Valid() {
			t.Errorf("the log of %s at %s: valid %t, failures %v", other.name, m.name, replayed.Valid(), failures)
		}
	}
}
