package assay

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/assay-project/assay/"

// Words and judgement may be imported by everyone; they import only what stands beside them here.
var layers = map[string][]string{
	"attest":      {},
	"evidence":    {"attest", "evidence", "endorsement"},
	"endorsement": {"attest"},
	"policy":      {"attest", "evidence", "endorsement"},
	"appraisal":   {"attest", "evidence", "endorsement", "policy"},
	"dossier":     {"attest", "evidence", "endorsement", "policy", "appraisal"},
	"ear":         {"attest", "evidence", "endorsement", "policy", "appraisal"},
	"api":         {"attest"},
	"reaction":    {"attest", "api", "reaction"},
	"wire":        {"attest", "evidence", "endorsement"},
}

var (
	words  = []string{"attest", "evidence", "endorsement", "policy", "appraisal", "dossier", "ear", "api", "wire", "reaction", "internal"}
	roles  = []string{"registrar", "verifier", "agent", "tenant", "gateway"}
	others = []string{"client", "tpm", "sqlstore", "lab", "deploy", "kube"}
)

// exceptions to the layers, each with its reason.
var exceptions = map[[2]string]string{
	{"sqlstore", "registrar"}: "an adapter of the roles' stores speaks their types; the interfaces stand with the roles that use them",
	{"sqlstore", "verifier"}:  "as above",
	{"agent", "tpm"}:          "the agent is the role that works with the TPM of its machine",
	{"agent", "deploy"}:       "the agent installs the IMA policies that deploy/ima ships",
	{"lab", "deploy"}:         "a lab machine carries the IMA policy that real machines get",
	{"lab", "lab"}:            "the machine and what runs inside it are one technology",
	{"tpm", "tpm"}:            "its test helpers",
	{"kube", "client"}:        "the operator speaks the native API, by its client",
	{"kube", "deploy"}:        "the operator brings the CRDs that the chart installs",
}

// restricted imports: who alone may use a library.
var restricted = map[string][]string{
	"github.com/google/go-tpm":       {"tpm", "evidence/quote", "endorsement", "wire", "internal/swtpm"},
	"database/sql":                   {"sqlstore"},
	"modernc.org/sqlite":             {"sqlstore"},
	"github.com/pressly/goose":       {"sqlstore"},
	"github.com/cilium/ebpf":         {"bpf"},
	"k8s.io":                         {"kube", "lab/cluster", "test/world"},
	"sigs.k8s.io/controller-runtime": {"kube"},
	"github.com/spf13/cobra":         {"cmd", "internal/cli", "deploy/images/mkimages"},
}

// pure folders decide: whatever they need of the world, the time too, comes in.
var pure = []string{"attest", "evidence", "endorsement", "policy", "appraisal", "dossier", "api", "reaction", "verifier/machine"}

// pureExceptions are what pure folders import of ours beside each other, each with its reason.
var pureExceptions = map[[2]string]string{
	{"verifier/machine", "wire"}: "an answer holds the quote as agents pack it; wire's functions that write HTTP answers are not for the machine",
}

// impure is what they leave to others. A library stands for all that lies beneath it, but for what is named as harmless.
var (
	impurePackages = []string{
		"net", "os", "log", "syscall", "crypto/tls", "crypto/rand", "math/rand", "path/filepath", "io/ioutil", "database/sql", "plugin", "runtime", "unsafe", "C",
		"golang.org/x/sys", "golang.org/x/net", "github.com/google/go-tpm/tpm2/transport",
	}
	harmless     = []string{"net/netip", "net/url"}
	impureOfTime = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
)

type goFile struct {
	path string // slash-separated, from the root
	dir  string
	test bool
	ast  *ast.File
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || path == "build" || isModule(path)) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		slash := filepath.ToSlash(path)
		files = append(files, goFile{slash, filepath.ToSlash(filepath.Dir(path)), strings.HasSuffix(path, "_test.go"), parsed})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d Go files: is this the root of the module?", len(files))
	}
	return files
}

// isModule reports whether a folder is the root of a module within this one, with rules of its own.
func isModule(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "go.mod"))
	return err == nil && folder != "."
}

func TestEveryPackageHasADoc(t *testing.T) {
	docs := map[string]bool{}
	for _, f := range goFiles(t) {
		if !f.test {
			docs[f.dir] = docs[f.dir] || f.ast.Doc != nil
		}
	}
	for dir, ok := range docs {
		if !ok {
			t.Errorf("package %s has no package comment: what it does, what it trusts, what it leaves to others", dir)
		}
	}
}

func TestDepth(t *testing.T) {
	for _, f := range goFiles(t) {
		if strings.Count(f.dir, "/") > 2 {
			t.Errorf("%s: folders are at most 3 deep", f.path)
		}
	}
}

func top(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

func TestLayers(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(path, module); ok && !mayImport(f.dir, own) {
				t.Errorf("%s imports %s: not allowed by the layers", f.path, own)
			}
			for library, users := range restricted {
				if (path == library || strings.HasPrefix(path, library+"/")) && !slices.ContainsFunc(users, func(u string) bool { return f.dir == u || strings.HasPrefix(f.dir, u+"/") }) {
					t.Errorf("%s imports %s: only %v may", f.path, path, users)
				}
			}
		}
	}
}

func mayImport(from, to string) bool {
	a, b := top(from), top(to)
	if a == "cmd" || a == "test" || from == to {
		return true
	}
	if exceptions[[2]string{a, b}] != "" {
		return true
	}
	if allowed, ok := layers[a]; ok {
		return slices.Contains(allowed, b)
	}
	if a == "internal" {
		return b == "attest" || b == "internal" || b == "evidence"
	}
	if slices.Contains(roles, a) || slices.Contains(others, a) {
		return slices.Contains(words, b) || a == b
	}
	return false
}

func isPure(folder string) bool {
	if strings.HasSuffix(folder, "test") && folder != "attest" {
		return false // helpers of tests, such as quote/quotetest
	}
	return slices.ContainsFunc(pure, func(p string) bool { return folder == p || strings.HasPrefix(folder, p+"/") })
}

// impureImport says why a pure folder may not import a package; "" when it may.
func impureImport(folder, path string) string {
	within := func(library string) bool { return path == library || strings.HasPrefix(path, library+"/") }
	if own, ok := strings.CutPrefix(path, module); ok {
		if isPure(own) || pureExceptions[[2]string{folder, own}] != "" {
			return ""
		}
		return "it is not pure itself"
	}
	if slices.ContainsFunc(impurePackages, within) && !slices.Contains(harmless, path) {
		return "it reaches the world"
	}
	return ""
}

// impurities lists what a file of a pure folder must not do. The package time is known by its path, whatever the file calls it.
func impurities(folder string, file *ast.File) (found []string) {
	clock := ""
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if why := impureImport(folder, path); why != "" {
			found = append(found, "imports "+path+": "+why)
		}
		switch {
		case path != "time":
		case spec.Name == nil:
			clock = "time"
		case spec.Name.Name == ".":
			found = append(found, "imports time without its name, which hides who reads the clock")
		default:
			clock = spec.Name.Name
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, "starts a goroutine")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == clock && slices.Contains(impureOfTime, n.Sel.Name) {
				found = append(found, "time."+n.Sel.Name+": the time comes in")
			}
		}
		return true
	})
	return found
}

func TestPureFolders(t *testing.T) {
	used := map[[2]string]bool{}
	for _, f := range goFiles(t) {
		if f.test || !isPure(f.dir) {
			continue
		}
		for _, found := range impurities(f.dir, f.ast) {
			t.Errorf("%s: this folder is pure, and it %s", f.path, found)
		}
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			used[[2]string{f.dir, strings.TrimPrefix(path, module)}] = true
		}
	}
	for exception := range pureExceptions {
		if !used[exception] {
			t.Errorf("nothing needs the exception %v", exception)
		}
	}
}

// TestImpurities: what the rule for pure folders has to see.
func TestImpurities(t *testing.T) {
	for source, want := range map[string]string{
		`import "strings"; var _ = strings.ToLower`:                                                "",
		`import "net/url"; var _ url.URL`:                                                          "",
		`import "time"; var _ = time.Unix`:                                                         "",
		`import "time"; var now = time.Now`:                                                        "time.Now",
		`import clock "time"; var now = clock.Now`:                                                 "time.Now",
		`import . "time"; var now = Now`:                                                           "without its name",
		`import clock "strings"; var now = clock.Now`:                                              "",
		`import "os"; var _ = os.Getpid`:                                                           "imports os:",
		`import "os/signal"; var _ = signal.Stop`:                                                  "imports os/signal:",
		`import "net/http/httptest"; var _ httptest.Server`:                                        "imports net/http/httptest:",
		`import "syscall"; var _ = syscall.Getpid`:                                                 "imports syscall:",
		`import "golang.org/x/sys/unix"; var _ = unix.Getpid`:                                      "imports golang.org/x/sys/unix:",
		`import "crypto/tls"; var _ = tls.Dial`:                                                    "imports crypto/tls:",
		`import "path/filepath"; var _ = filepath.Walk`:                                            "imports path/filepath:",
		`import "github.com/assay-project/assay/internal/durable"; var _ durable.Dir`:              "not pure itself",
		`import "github.com/assay-project/assay/verifier"; var _ verifier.Node`:                    "not pure itself",
		`import "github.com/assay-project/assay/evidence/quote/quotetest"; var _ quotetest.Signer`: "not pure itself",
		`import "github.com/assay-project/assay/wire"; var _ wire.Version`:                         "not pure itself",
		`import "github.com/assay-project/assay/attest"; var _ attest.AgentID`:                     "",
		`func f() { go f() }`:                                                                      "starts a goroutine",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "a.go", "package a; "+source, 0)
		if err != nil {
			t.Fatal(err)
		}
		found := impurities("policy", file)
		if want == "" && len(found) > 0 || want != "" && (len(found) != 1 || !strings.Contains(found[0], want)) {
			t.Errorf("%s: found %q, want %q", source, found, want)
		}
	}
}

// TestRolesDoNotMeet holds for tests too: what needs two roles stands in test/.
func TestRolesDoNotMeet(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			own, ok := strings.CutPrefix(path, module)
			if ok && slices.Contains(roles, top(f.dir)) && slices.Contains(roles, top(own)) && top(f.dir) != top(own) {
				t.Errorf("%s imports the role %s: roles speak wire, not Go", f.path, own)
			}
		}
	}
}

func TestOnlyNeedSkips(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.dir == "internal/need" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, s.Sel.Name) {
				if x, ok := s.X.(*ast.Ident); ok && (x.Name == "t" || x.Name == "tb" || x.Name == "b" || x.Name == "f") {
					t.Errorf("%s: %s.%s: only internal/need may skip", f.path, x.Name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestNoInit(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init", f.path)
			}
		}
	}
}
