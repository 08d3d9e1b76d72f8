package agent

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

const (
	testList    = "/sys/kernel/security/ima/ascii_runtime_measurements"
	testBootLog = "/sys/kernel/security/tpm0/binary_bios_measurements"
)

// goodMachine has all that Assay wants: each row of a test takes one thing away.
func goodMachine() (machine, fstest.MapFS) {
	hash := strings.Repeat("ab", 20)
	files := fstest.MapFS{
		testList[1:]: {Mode: 0o440, Data: []byte("10 " + hash + " ima-ng sha256:" + strings.Repeat("00", 32) + " boot_aggregate\n" +
			"10 " + hash + " ima-ng sha256:" + strings.Repeat("11", 32) + " /etc/ima/ima-policy\n")},
		testBootLog[1:]:                 {Mode: 0o440, Data: []byte("log")},
		"proc/cmdline":                  {Data: []byte("root=/dev/vda\n")},
		"boot/config-6.1.0-cloud":       {Data: []byte("# comment\nCONFIG_IMA=y\nCONFIG_TCG_TPM=y\n# CONFIG_IMA_WRITE_POLICY is not set\n")},
		"sys/kernel/security/ima/count": {},
	}
	return machine{
		files: files, release: "6.1.0-cloud", imaList: testList, bootLog: testBootLog,
		tpm: tpmFacts{Name: "SW TPM", Banks: []attest.Hash{attest.SHA1, attest.SHA256}, Certificate: true},
	}, files
}

func TestPreflightGoodMachine(t *testing.T) {
	m, _ := goodMachine()
	checks := m.examine()
	var names []string
	for _, check := range checks {
		names = append(names, check.Name)
		if check.Status != api.PreflightOK || check.Remedy != "" {
			t.Errorf("%+v, want ok", check)
		}
	}
	want := []string{"tpm", "pcr-banks", "ek-certificate", "ima-list", "ima-policy", "boot-log", "kernel"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if !Works(checks) {
		t.Error("a good machine does not work")
	}
	if len(checks) > api.MaxPreflightChecks {
		t.Errorf("%d checks, the API takes %d", len(checks), api.MaxPreflightChecks)
	}
}

func TestPreflightFindings(t *testing.T) {
	boot := func(line string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(line)} }
	for _, row := range []struct {
		name   string
		spoil  func(*machine, fstest.MapFS)
		check  string
		status api.PreflightStatus
		detail string // a part of it
	}{
		{"no TPM", func(m *machine, _ fstest.MapFS) { m.tpm = tpmFacts{Err: errors.New("open /dev/tpmrm0: no such file")} },
			"tpm", api.PreflightFailing, "/dev/tpmrm0"},
		{"banks of no TPM", func(m *machine, _ fstest.MapFS) { m.tpm = tpmFacts{Err: errors.New("gone")} },
			"pcr-banks", api.PreflightWarning, "not known"},
		{"certificate of no TPM", func(m *machine, _ fstest.MapFS) { m.tpm = tpmFacts{Err: errors.New("gone")} },
			"ek-certificate", api.PreflightWarning, "not known"},
		{"lockout", func(m *machine, _ fstest.MapFS) { m.tpm.Lockout = true }, "tpm", api.PreflightWarning, "lockout"},
		{"endorsement password", func(m *machine, _ fstest.MapFS) { m.tpm.Password = true }, "tpm", api.PreflightFailing, "password"},
		{"SHA-1 only", func(m *machine, _ fstest.MapFS) { m.tpm.Banks = m.tpm.Banks[:1] }, "pcr-banks", api.PreflightFailing, "sha256 is not"},
		{"no EK certificate", func(m *machine, _ fstest.MapFS) { m.tpm.Certificate = false }, "ek-certificate", api.PreflightWarning, "no certificate"},
		{"no IMA", func(_ *machine, f fstest.MapFS) { delete(f, testList[1:]) }, "ima-list", api.PreflightFailing, testList},
		{"policy without IMA", func(_ *machine, f fstest.MapFS) { delete(f, testList[1:]) }, "ima-policy", api.PreflightWarning, "not known"},
		{"empty list", func(_ *machine, f fstest.MapFS) { f[testList[1:]].Data = nil }, "ima-list", api.PreflightFailing, "is empty"},
		{"tcb", func(_ *machine, f fstest.MapFS) {
			f[testList[1:]].Data = []byte("10 aa ima-ng sha256:00 boot_aggregate\n")
			f["proc/cmdline"] = boot("root=/dev/vda ima_policy=tcb\n")
		}, "ima-policy", api.PreflightWarning, `"tcb"`},
		{"no policy", func(_ *machine, f fstest.MapFS) {
			f[testList[1:]].Data = []byte("10 aa ima-ng sha256:00 boot_aggregate\n")
		},
			"ima-policy", api.PreflightFailing, "no IMA policy"},
		{"another policy", func(_ *machine, f fstest.MapFS) {
			f[testList[1:]].Data = []byte("10 aa ima-ng sha256:00 boot_aggregate\n10 aa ima-ng sha256:00 /bin/sh\n")
		}, "ima-policy", api.PreflightWarning, "by no policy file"},
		{"policy was only read", func(m *machine, f fstest.MapFS) {
			m.self = us
			f[testList[1:]].Data = []byte("10 aa ima-ng sha256:00 boot_aggregate\n10 aa ima-ng sha256:00 " + us + "\n10 aa ima-ng sha256:11 /etc/ima/ima-policy\n")
			f["sys/kernel/security/ima/policy"] = &fstest.MapFile{Mode: 0o600}
			f["proc/cmdline"] = boot("root=/dev/vda ima_policy=tcb\n")
		}, "ima-policy", api.PreflightWarning, `"tcb"`},
		{"policy can be rewritten", func(_ *machine, f fstest.MapFS) { f["sys/kernel/security/ima/policy"] = &fstest.MapFile{Mode: 0o600} },
			"ima-policy", api.PreflightWarning, "further rules"},
		{"no list configured", func(m *machine, _ fstest.MapFS) { m.imaList = "" }, "ima-list", api.PreflightWarning, "left out"},
		{"no boot log configured", func(m *machine, _ fstest.MapFS) { m.bootLog = "" }, "boot-log", api.PreflightWarning, "left out"},
		{"no boot log", func(_ *machine, f fstest.MapFS) { delete(f, testBootLog[1:]) }, "boot-log", api.PreflightWarning, testBootLog},
		{"empty boot log", func(_ *machine, f fstest.MapFS) { f[testBootLog[1:]].Data = nil }, "boot-log", api.PreflightWarning, "is empty"},
		{"TPM driver is a module", func(_ *machine, f fstest.MapFS) {
			f["boot/config-6.1.0-cloud"] = boot("CONFIG_IMA=y\nCONFIG_TCG_TPM=m\n")
		}, "kernel", api.PreflightFailing, "CONFIG_TCG_TPM"},
		{"IMA rules can be written", func(_ *machine, f fstest.MapFS) {
			f["boot/config-6.1.0-cloud"] = boot("CONFIG_IMA=y\nCONFIG_TCG_TPM=y\nCONFIG_IMA_WRITE_POLICY=y\n")
		}, "kernel", api.PreflightWarning, "CONFIG_IMA_WRITE_POLICY"},
		{"no kernel configuration", func(_ *machine, f fstest.MapFS) { delete(f, "boot/config-6.1.0-cloud") },
			"kernel", api.PreflightOK, "not at hand"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m, files := goodMachine()
			row.spoil(&m, files)
			checks := m.examine()
			for _, check := range checks {
				if check.Name != row.check {
					continue
				}
				if check.Status != row.status || !strings.Contains(check.Detail, row.detail) {
					t.Errorf("%+v, want %s with %q", check, row.status, row.detail)
				}
				if slices.Contains([]string{"tcb", "no policy", "another policy"}, row.name) && !strings.Contains(check.Remedy, bootParameters) {
					t.Errorf("%+v does not say how to boot", check)
				}
				if check.Status == api.PreflightFailing && check.Remedy == "" {
					t.Errorf("%+v says no remedy", check)
				}
			}
			if row.status == api.PreflightFailing && Works(checks) {
				t.Error("a failing check passes as working")
			}
		})
	}
}

func TestPreflightNoRight(t *testing.T) {
	m, files := goodMachine()
	m.files = forbidding{files, testList[1:]}
	check := m.checkList()
	if check.Status != api.PreflightFailing || !strings.Contains(check.Detail, "permission denied") || !strings.Contains(check.Remedy, "root") {
		t.Errorf("%+v, want failing for want of the right", check)
	}
}

// forbidding refuses to open one file, as the kernel does to a process without the right.
type forbidding struct {
	fs.FS
	name string
}

func (f forbidding) Open(name string) (fs.File, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f.FS.Open(name)
}

func TestPreflightCompressedKernelConfig(t *testing.T) {
	m, files := goodMachine()
	delete(files, "boot/config-6.1.0-cloud")
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write([]byte("CONFIG_IMA=y\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files["proc/config.gz"] = &fstest.MapFile{Data: zipped.Bytes()}
	check := m.checkKernel()
	if check.Status != api.PreflightFailing || !strings.Contains(check.Detail, "CONFIG_TCG_TPM") {
		t.Errorf("%+v, want failing with CONFIG_TCG_TPM", check)
	}
	files["proc/config.gz"].Data = []byte("no gzip")
	if check := m.checkKernel(); check.Status != api.PreflightOK || !strings.Contains(check.Detail, "not at hand") {
		t.Errorf("%+v, want the reason why there is no configuration", check)
	}
}
