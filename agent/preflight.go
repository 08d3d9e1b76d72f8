package agent

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/tpm"
)

// Bounds on what the preflight reads of a machine.
const (
	maxKernelConfigBytes = 4 << 20
	maxCommandLineBytes  = 64 << 10
	maxPolicySearchBytes = 1 << 20
)

// bootParameters have the kernel record the load of a policy file: deploy/ima/README.md says why.
const bootParameters = "ima_policy=tcb ima_hash=sha256 ima_template=ima-ng"

// machine is what the preflight looks at. Files come through an fs.FS whose root is the machine's, so that tests can show it any machine.
type machine struct {
	files   fs.FS
	release string
	imaList string
	bootLog string
	self    string // the path of our own program, as the kernel knows it
	policy  IMAPolicy
	outcome policyOutcome // what the agent did about the policy; zero for one that only looks
	tpm     tpmFacts
}

// tpmFacts is what the TPM says of itself. Err is why it could not be asked.
type tpmFacts struct {
	Err         error
	Name        string
	Lockout     bool
	Password    bool // the endorsement hierarchy has one, and the configuration none
	Banks       []attest.Hash
	Certificate bool
}

// Preflight looks at this machine as the agent would find it, and changes nothing.
func Preflight(config Config) []api.PreflightCheck {
	password, err := readEndorsementAuth(config.EndorsementAuthFile)
	if err != nil {
		return thisMachine(config, tpmFacts{Err: fmt.Errorf("%w: %w", errEndorsementFile, err)}).examine()
	}
	device, err := openDevice(config.TPM, password)
	if err != nil {
		return thisMachine(config, tpmFacts{Err: err}).examine()
	}
	facts := device.facts()
	if facts.Err == nil && !facts.Password {
		facts.Err = device.openEK(config.kinds().EK)
		facts.Certificate = len(device.chain) > 0
	}
	if err := device.Close(); err != nil && facts.Err == nil {
		facts.Err = err
	}
	return thisMachine(config, facts).examine()
}

// thisMachine is what the preflight looks at here.
func thisMachine(config Config, facts tpmFacts) machine {
	return machine{
		files: os.DirFS("/"), release: kernelRelease(), self: ownPath(), imaList: config.IMAList, bootLog: config.BootLog, policy: config.IMAPolicy, tpm: facts,
	}
}

// ownPath is our own program's, empty where it is not known.
func ownPath() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}

// examine makes every check, in the order in which a person would mend the findings.
func (m machine) examine() []api.PreflightCheck {
	checks := []api.PreflightCheck{m.checkTPM(), m.checkBanks(), m.checkCertificate(), m.checkList(), m.checkPolicy()}
	return append(append(checks, m.checkPolicyFile()...), m.checkBootLog(), m.checkKernel())
}

// Works reports whether nothing fails; warnings are coverage that is missing.
func Works(checks []api.PreflightCheck) bool {
	return !slices.ContainsFunc(checks, func(c api.PreflightCheck) bool { return c.Status == api.PreflightFailing })
}

func (m machine) checkTPM() api.PreflightCheck {
	check := api.PreflightCheck{Name: "tpm", Status: api.PreflightOK, Detail: m.tpm.Name}
	switch {
	case errors.Is(m.tpm.Err, errEndorsementFile), errors.Is(m.tpm.Err, tpm.ErrEndorsementAuth):
		check.Status, check.Detail = api.PreflightFailing, m.tpm.Err.Error()
		check.Remedy = "Set the key endorsementAuthFile to a file with the hierarchy's password that only its owner can read."
	case m.tpm.Err != nil:
		check.Status, check.Detail = api.PreflightFailing, m.tpm.Err.Error()
		check.Remedy = "Enable the TPM 2.0 in the firmware's setup, load its driver, and start the agent as root or in the group of /dev/tpmrm0."
	case m.tpm.Password:
		check.Status = api.PreflightFailing
		check.Detail += "; its endorsement hierarchy has a password"
		check.Remedy = "Set the key endorsementAuthFile, or remove the password: tpm2_changeauth -c endorsement -p PASSWORD."
	case m.tpm.Lockout:
		// Assay's keys are not under that protection.
		check.Status = api.PreflightWarning
		check.Detail += "; it is in dictionary attack lockout: attestation works, keys of other programs may not"
		check.Remedy = "Wait for the recovery time, or clear it with the lockout authorisation: tpm2_dictionarylockout -c."
	}
	return check
}

func (m machine) checkBanks() api.PreflightCheck {
	check := api.PreflightCheck{Name: "pcr-banks", Status: api.PreflightOK}
	if m.tpm.Err != nil {
		return unknown(check, "the TPM could not be asked")
	}
	names := make([]string, len(m.tpm.Banks))
	for i, bank := range m.tpm.Banks {
		names[i] = bank.String()
	}
	check.Detail = "active: " + strings.Join(names, ", ")
	if !slices.Contains(m.tpm.Banks, attest.SHA256) {
		check.Status = api.PreflightFailing
		check.Detail += "; sha256 is not"
		check.Remedy = "Allocate the sha256 bank in the firmware's setup or with tpm2_pcrallocate, and reboot."
	}
	return check
}

func (m machine) checkCertificate() api.PreflightCheck {
	check := api.PreflightCheck{Name: "ek-certificate", Status: api.PreflightOK, Detail: "the TPM holds a certificate of its endorsement key"}
	switch {
	case m.tpm.Err != nil || m.tpm.Password:
		return unknown(check, "the TPM could not be asked")
	case !m.tpm.Certificate:
		check.Status, check.Detail = api.PreflightWarning, "the TPM holds no certificate of its endorsement key"
		check.Remedy = "Add the vendor's certificate to the server, or enrol with --first-use where the server allows it."
	}
	return check
}

func (m machine) checkList() api.PreflightCheck {
	check := api.PreflightCheck{Name: "ima-list", Status: api.PreflightOK}
	head, err := m.read(m.imaList, maxPolicySearchBytes)
	switch {
	case errors.Is(err, errLeftOut):
		check.Status, check.Detail, check.Remedy = api.PreflightWarning, err.Error(), "Set the key imaList."
	case errors.Is(err, fs.ErrNotExist):
		check.Status, check.Detail = api.PreflightFailing, "there is no "+m.imaList
		check.Remedy = "Boot a kernel with CONFIG_IMA and mount securityfs on /sys/kernel/security."
	case err != nil:
		check.Status, check.Detail = api.PreflightFailing, err.Error()
		check.Remedy = "Start the agent as root: it opens the list first and then drops its rights."
	case len(head) == 0:
		check.Status, check.Detail = api.PreflightFailing, m.imaList+" is empty"
		check.Remedy = "IMA found no TPM when the kernel started; build the TPM's driver into the kernel."
	default:
		check.Detail = fmt.Sprintf("%s is readable", m.imaList)
	}
	return check
}

// checkPolicy tells how IMA got its policy: by a file of ours, which the list shows; by the command line, which root may replace
// without a trace on many kernels; or not at all.
func (m machine) checkPolicy() api.PreflightCheck {
	check := api.PreflightCheck{Name: "ima-policy", Status: api.PreflightOK}
	head, err := m.read(m.imaList, maxPolicySearchBytes)
	if err != nil {
		return unknown(check, "the measurement list cannot be read")
	}
	const remedy = "Install deploy/ima/host.policy as deploy/ima/README.md says, reboot with the kernel's parameters " + bootParameters + ", and list its digest in the Runtime document."
	commandLine, err := m.read("/proc/cmdline", maxCommandLineBytes)
	if err != nil {
		return unknown(check, err.Error())
	}
	for _, path := range m.policyPaths() {
		if found := lookUp(head, path, m.self); found.loaded(m.policyOpen()) {
			check.Detail = path + " was measured: " + nameOf(found.digest)
			return m.checkRewrite(check)
		}
	}
	for word := range strings.FieldsSeq(string(commandLine)) {
		if name, found := strings.CutPrefix(word, "ima_policy="); found {
			check.Status, check.Remedy = api.PreflightWarning, remedy
			check.Detail = fmt.Sprintf("built-in policy %q of the command line: root can replace it unseen", name)
			return check
		}
	}
	check.Status, check.Detail, check.Remedy = api.PreflightFailing, "no IMA policy is known to be loaded", remedy
	if bytes.Count(head, []byte("\n")) > 1 {
		check.Status, check.Detail = api.PreflightWarning, "something is measured, but by no policy file of Assay"
	}
	return check
}

// checkRewrite adds whether root can load further rules.
func (m machine) checkRewrite(check api.PreflightCheck) api.PreflightCheck {
	if m.policyOpen() {
		check.Status = api.PreflightWarning
		check.Detail += "; this kernel lets root load further rules"
		check.Remedy = "Boot a kernel without CONFIG_IMA_WRITE_POLICY."
	}
	return check
}

func (m machine) checkBootLog() api.PreflightCheck {
	check := api.PreflightCheck{Name: "boot-log", Status: api.PreflightOK, Detail: m.bootLog + " is readable"}
	log, err := m.read(m.bootLog, maxBootLogBytes)
	switch {
	case errors.Is(err, errLeftOut):
		check.Status, check.Detail, check.Remedy = api.PreflightWarning, err.Error(), "Set the key bootLog."
	case errors.Is(err, fs.ErrNotExist):
		check.Status, check.Detail = api.PreflightWarning, "there is no "+m.bootLog
		check.Remedy = "Boot by UEFI; without the log no Boot policy can be appraised."
	case err != nil:
		check.Status, check.Detail = api.PreflightWarning, err.Error()
		check.Remedy = "Start the agent as root: it reads the log first and then drops its rights."
	case len(log) == 0:
		check.Status, check.Detail = api.PreflightWarning, m.bootLog+" is empty"
		check.Remedy = "Boot by UEFI; without the log no Boot policy can be appraised."
	}
	return check
}

// checkKernel reads the kernel's configuration where the distribution leaves it.
func (m machine) checkKernel() api.PreflightCheck {
	check := api.PreflightCheck{Name: "kernel", Status: api.PreflightOK, Detail: m.release}
	text, err := m.kernelConfig()
	if err != nil {
		check.Detail += "; its configuration is not at hand: " + err.Error()
		return check
	}
	set := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), "="); found {
			set[name] = value
		}
	}
	var missing []string
	for _, name := range []string{"CONFIG_IMA", "CONFIG_TCG_TPM"} {
		if set[name] != "y" {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0:
		check.Status = api.PreflightFailing
		check.Detail += ": not built in: " + strings.Join(missing, ", ")
		check.Remedy = "Boot a kernel that has them built in, such as Debian's linux-image-cloud-amd64."
	case set["CONFIG_IMA_WRITE_POLICY"] == "y":
		check.Status = api.PreflightWarning
		check.Detail += ": CONFIG_IMA_WRITE_POLICY lets root load further IMA rules"
	}
	return check
}

func (m machine) kernelConfig() ([]byte, error) {
	text, err := m.read("/boot/config-"+m.release, maxKernelConfigBytes)
	if err == nil {
		return text, nil
	}
	file, zipErr := m.files.Open("proc/config.gz")
	if zipErr != nil {
		return nil, err
	}
	defer file.Close()
	unzip, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("read /proc/config.gz: %w", err)
	}
	text, err = io.ReadAll(io.LimitReader(unzip, maxKernelConfigBytes))
	if err != nil {
		return nil, fmt.Errorf("read /proc/config.gz: %w", err)
	}
	return text, nil
}

// errEndorsementFile says that not the TPM is at fault but the file with its hierarchy's password.
var errEndorsementFile = errors.New("the endorsement hierarchy's password")

// errLeftOut says that the configuration names no such file.
var errLeftOut = errors.New("left out by the configuration")

// read returns at most limit bytes of a file given by its absolute path.
func (m machine) read(path string, limit int64) ([]byte, error) {
	if path == "" {
		return nil, errLeftOut
	}
	file, err := m.files.Open(strings.TrimPrefix(path, "/"))
	var at *fs.PathError
	if errors.As(err, &at) {
		return nil, fmt.Errorf("open %s: %w", path, at.Err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// listing is what the start of a measurement list shows of a policy file.
type listing struct {
	digest string // in hexadecimal, of its first entry
	listed bool
	// afterUs: the entry follows that of our own program.
	afterUs bool
}

// lookUp finds the first entry of a policy file in an ASCII list. A forged name only misleads the machine's own preflight.
func lookUp(list []byte, path, self string) (found listing) {
	lines := bufio.NewScanner(bytes.NewReader(list))
	lines.Buffer(nil, maxPolicySearchBytes)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if slices.Contains(fields, self) {
			found.afterUs = true
		}
		if i := slices.Index(fields, path); i > 0 {
			_, found.digest, _ = strings.Cut(fields[i-1], ":")
			found.listed = true
			return found
		}
	}
	return found
}

// loaded reports whether the kernel runs the policy, as far as can be told from here. The built-in policy tcb measures what root reads, and the agent
// reads the file itself: an entry that follows our own program's may be no more than that, as long as the kernel still takes policies.
func (l listing) loaded(open bool) bool { return l.listed && !(open && l.afterUs) }

// policyOpen reports whether the kernel still takes policies: securityfs keeps its file writable only then.
func (m machine) policyOpen() bool {
	info, err := fs.Stat(m.files, "sys/kernel/security/ima/policy")
	return err == nil && info.Mode().Perm()&0o222 != 0
}

// unknown grades a check that could not be made.
func unknown(check api.PreflightCheck, why string) api.PreflightCheck {
	check.Status, check.Detail = api.PreflightWarning, "not known: "+why
	return check
}
