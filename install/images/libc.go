package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// libcVersion is that of Debian 12's package libc6: the archive keeps it, for Debian 12 gets no more point releases.
const libcVersion = "2.36-9+deb12u14"

// libc gives the files that Envoy needs besides itself: the libraries that it names, and the loader.
func (o options) libc(ctx context.Context, arch, envoy string) ([]file, error) {
	wanted, err := libraries(envoy)
	if err != nil {
		return nil, err
	}
	if o.hostLibc {
		return hostLibc(arch, wanted)
	}
	deb, err := o.libcPackage(ctx, arch)
	if err != nil {
		return nil, err
	}
	content, err := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb).Output()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: dpkg-deb: %w", deb, err)
	}
	return fromPackage(content, targets[arch], wanted)
}

// libraries lists the names of the shared libraries that a binary needs.
func libraries(binary string) ([]string, error) {
	f, err := elf.Open(binary)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ImportedLibraries()
}

// fromPackage picks libraries, the loader and the licence out of the tar archive of a package.
func fromPackage(content []byte, t target, wanted []string) ([]file, error) {
	libs := "lib/" + t.debian + "/"
	missing := map[string]bool{libs + path.Base(t.loader): true}
	for _, l := range wanted {
		missing[libs+l] = true
	}
	const licence = "usr/share/doc/libc6/copyright"
	missing[licence] = true
	var out []file
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if !missing[name] || h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		delete(missing, name)
		out = append(out, file{path: name, content: b, mode: 0o755})
	}
	for name := range missing {
		return nil, fmt.Errorf("the package libc6 %s has no %s", libcVersion, name)
	}
	return append(out, file{path: t.loader, link: "/" + libs + path.Base(t.loader)}), nil
}

// hostLibc takes this machine's libraries. They are only good for this machine's architecture.
func hostLibc(arch string, wanted []string) ([]file, error) {
	if arch != runtime.GOARCH {
		return nil, fmt.Errorf("-libc host: this machine is %s", runtime.GOARCH)
	}
	t := targets[arch]
	out := []file{{path: t.loader, source: "/" + t.loader, mode: 0o755}}
	for _, l := range wanted {
		if l == path.Base(t.loader) {
			continue
		}
		found := ""
		for _, dir := range []string{"/lib/" + t.debian, "/usr/lib/" + t.debian, "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
			if _, err := os.Stat(filepath.Join(dir, l)); err == nil {
				found = filepath.Join(dir, l)
				break
			}
		}
		if found == "" {
			return nil, fmt.Errorf("-libc host: %s is in none of the usual folders", l)
		}
		// /lib is searched by the loaders of all distributions.
		out = append(out, file{path: "lib/" + l, source: found, mode: 0o755})
	}
	return out, nil
}

// libcPackage gives the pinned package, downloaded by apt from the sources that this machine has, but without touching
// what apt keeps of this machine.
func (o options) libcPackage(ctx context.Context, arch string) (string, error) {
	deb := filepath.Join(o.cache, "libc6_"+libcVersion+"_"+arch+".deb")
	if _, err := os.Stat(deb); errors.Is(err, os.ErrNotExist) {
		if err := downloadPackage(ctx, arch, deb); err != nil {
			return "", fmt.Errorf("get Debian's libc6 %s: %w; where apt's sources lack Debian 12, get it elsewhere and put it at %s, or give -libc host", libcVersion, err, deb)
		}
	}
	b, err := os.ReadFile(deb)
	if err != nil {
		return "", err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != targets[arch].libc {
		return "", fmt.Errorf("%s has SHA-256 %x, not %s; remove it", deb, sum, targets[arch].libc)
	}
	return deb, nil
}

func downloadPackage(ctx context.Context, arch, deb string) error {
	dir, err := os.MkdirTemp("", "weft-apt-") // readable for apt's own user
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.MkdirAll(filepath.Join(dir, "lists/partial"), 0o755),
		os.MkdirAll(filepath.Join(dir, "archives/partial"), 0o755)); err != nil {
		return err
	}
	options := []string{"-qq",
		"-o", "Dir::State=" + dir, "-o", "Dir::State::status=/dev/null", "-o", "Dir::Cache=" + dir,
		"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures=" + arch, "-o", "Acquire::Languages=none",
		"-o", "APT::Sandbox::User=root"}
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, tail(out))
		}
		return nil
	}
	// A source that is not for this architecture fails; what counts is whether the package is found.
	updated := apt("update")
	if err := apt("download", "libc6="+libcVersion); err != nil {
		return errors.Join(err, updated)
	}
	found, err := filepath.Glob(filepath.Join(dir, "libc6_*.deb"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("apt-get left %d packages", len(found))
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		return err
	}
	return atomicfile.Fill(deb, 0o644, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}
