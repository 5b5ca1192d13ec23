// Package rig tests the doctor against real servers: nginx, Apache httpd with ModSecurity and the Core Rule Set,
// HAProxy, lighttpd, Caddy, php-fpm, Flask and Django, on loopback.
//
// A scenario is a file of testdata (configurations, files, what is done before) and an entry of a table (what is
// asked, what must come out). Each is diagnosed twice: with nothing but the request, and on the server. The test
// counts what leaves, and scores the verdicts. Scenarios are those of the catalogue (S), situations that mislead (W), and
// controls in which nothing is refused (C).
package rig
