package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func run(arguments ...string) (string, error) {
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs(arguments)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.Execute()
	return out.String(), err
}

func TestBuildWithoutPrograms(t *testing.T) {
	folder := t.TempDir()
	out := filepath.Join(folder, "images")
	_, err := run("build", "--programs", folder, "--out", out, "assay")
	if err == nil || !strings.Contains(err.Error(), filepath.Join("amd64", "assay")+": the program is not built: run make build") {
		t.Errorf("without programs: %v", err)
	}
	if left, err := os.ReadDir(out); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestMistakes(t *testing.T) {
	tests := []struct {
		arguments []string
		want      string
	}{
		{[]string{"push", "--tag", "v1"}, "REGISTRY is empty"},
		{[]string{"push", "--registry", "r.example"}, "TAG is empty"},
		{[]string{"push", "--registry", "r.example", "--tag", "v1", "--in", t.TempDir()}, "assay.tar: no such file"},
		{[]string{"build", "assey"}, `image "assey": there are [assay assay-agent assay-operator assay-swtpm]`},
		{[]string{"push", "assey"}, `image "assey"`},
	}
	for _, test := range tests {
		if _, err := run(test.arguments...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %s", test.arguments, err, test.want)
		}
	}
}
