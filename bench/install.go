//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// packages are the Debian packages of the programs used.
var packages = map[string]string{"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", modsecurity: "libnginx-mod-http-modsecurity"}

// findPrograms finds what a run needs, installs what is missing if it may, and
// says what it does. The Whygate binary is absent from the result when there is none.
func findPrograms(ctx context.Context, set settings) (map[string]string, error) {
	needed := []string{"nginx", "wrk"} // nginx is the origin of every run
	wanted := map[string]bool{}
	for _, name := range set.Entries {
		wanted[find(name).program] = true
	}
	if wanted["haproxy"] {
		needed = append(needed, "haproxy")
	}
	if slices.Contains(set.Cases, caseWAF) {
		needed = append(needed, modsecurity)
	}
	found := map[string]string{}
	var missing []string
	for _, name := range needed {
		if path := lookFor(name); path != "" {
			found[name] = path
		} else {
			missing = append(missing, packages[name])
		}
	}
	if len(missing) > 0 {
		if err := install(ctx, missing); err != nil {
			return nil, err
		}
		for _, name := range needed {
			if found[name] = lookFor(name); found[name] == "" {
				return nil, fmt.Errorf("%s is not to be found after installing %s", name, packages[name])
			}
		}
	}
	if wanted["whygate"] {
		path, err := filepath.Abs(set.Whygate)
		if err != nil {
			return nil, err
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			found["whygate"] = path
		}
	}
	return found, nil
}

// lookFor looks in PATH and where Debian keeps servers, which is not in the PATH
// of everybody. A path it takes as it is.
func lookFor(name string) string {
	if filepath.IsAbs(name) { // a module, which is not executable
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			return ""
		}
		return name
	}
	if path, err := exec.LookPath(name); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			return path
		}
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// install runs apt-get, with the services that Debian would start kept from starting.
func install(ctx context.Context, names []string) (err error) {
	slices.Sort(names)
	argv := append([]string{"apt-get", "install", "-y", "--no-install-recommends"}, names...)
	line := strings.Join(argv, " ")
	if os.Getuid() != 0 {
		return fmt.Errorf("%s missing; as root, type: apt-get update && %s", strings.Join(names, ", "), line)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s missing, and there is no apt-get here; install nginx, haproxy and wrk as this system does it", strings.Join(names, ", "))
	}
	allow, err := denyServices("/usr/sbin/policy-rc.d")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, allow()) }()
	for _, argv := range [][]string{{"apt-get", "update"}, argv} {
		fmt.Fprintln(os.Stderr, "running:", strings.Join(argv, " "))
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
	}
	return nil
}

// denyServices keeps packages from starting their servers while they are installed,
// by the file that invoke-rc.d(8) asks, until allow is called. A policy that is there
// already is left alone.
func denyServices(path string) (allow func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keeping services from starting: %w", err)
	}
	fmt.Fprintf(os.Stderr, "%s keeps services from starting until the packages are installed\n", path)
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	return func() error { return os.Remove(path) }, errors.Join(err, f.Close())
}

// machine is what the numbers were measured with.
type machine struct {
	CPU      string   `json:"cpu"`
	Cores    int      `json:"cores"`
	Kernel   string   `json:"kernel"`
	Go       string   `json:"go"`
	Versions []string `json:"versions"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s\n%s", m.CPU, m.Cores, m.Kernel, strings.Join(append([]string{m.Go}, m.Versions...), "\n"))
}

func (h *harness) describe(ctx context.Context) machine {
	m := machine{CPU: "unknown CPU", Cores: runtime.NumCPU(), Go: runtime.Version() + " (this program)"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		m.Kernel = fmt.Sprintf("%s %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]))
	}
	for _, ask := range [][]string{{"nginx", "-v"}, {"haproxy", "-v"}, {"wrk", "-v"}, {"whygate", "version"}} {
		if h.programs[ask[0]] == "" {
			continue
		}
		// wrk -v ends with status 1 and prints its usage too.
		out, _ := exec.CommandContext(ctx, h.programs[ask[0]], ask[1:]...).CombinedOutput()
		line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		m.Versions = append(m.Versions, string(line))
	}
	return m
}
