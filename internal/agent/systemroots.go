package agent

import (
	"cmp"
	"io"
	"log/slog"
	"os"
)

// rootFiles are where Linux distributions keep the certificates that the system trusts, as crypto/x509 looks for them.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, and images without a distribution
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem", // openSUSE
	"/etc/ssl/cert.pem",      // Alpine
}

// hostRoot is the node's file system, as a pod with the node's processes sees it. The image has no certificates.
const hostRoot = "/proc/1/root"

// maxRoots bounds the file, in bytes. That of Debian has 230 KB.
const maxRoots = 2 << 20

// systemRoots returns the certificates that the system trusts, as PEM: of the file that SSL_CERT_FILE names, or of the first
// that there is, the node's included. nil if there is none: what asks for them is not served.
func systemRoots(log *slog.Logger) []byte {
	files := rootFiles
	for _, f := range rootFiles {
		files = append(files, hostRoot+f)
	}
	if named := os.Getenv("SSL_CERT_FILE"); named != "" {
		files = []string{named}
	}
	var why error
	for _, file := range files {
		text, err := readRoots(file)
		if err == nil && len(text) > 0 {
			return text
		}
		why = cmp.Or(why, err)
	}
	log.Debug("the system has no trusted certificates; nothing is sent to targets of a BackendTLSPolicy that asks for them", "files", files, "error", why)
	return nil
}

func readRoots(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRoots+1))
	if err != nil || len(text) > maxRoots {
		return nil, cmp.Or(err, error(&os.PathError{Op: "read", Path: file, Err: io.ErrShortBuffer}))
	}
	return text, nil
}
