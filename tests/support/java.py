"""Running a Java program of one file, as a client that was not written in Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["HTTP_CLIENT", "run_java"]

LIMIT_S = 120

HTTP_CLIENT = """
import java.io.*;
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Sends a GET, and each body once with its length and once in chunks, by clients that offer h2c. */
public class Client {
    static HttpClient client = HttpClient.newHttpClient();

    static void send(String name, HttpRequest.Builder request) throws Exception {
        HttpResponse<String> answer = client.send(request.build(), BodyHandlers.ofString());
        System.out.println(name + "\\t" + answer.statusCode() + "\\t" + answer.body());
    }

    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        send("GET", HttpRequest.newBuilder(uri));
        for (int number = 1; number < arguments.length; number++) {
            byte[] body = "x".repeat(Integer.parseInt(arguments[number])).getBytes();
            send("length", HttpRequest.newBuilder(uri).POST(BodyPublishers.ofByteArray(body)));
            client = HttpClient.newHttpClient();  // it offers h2c again
            HttpRequest.BodyPublisher chunks = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
            send("chunks", HttpRequest.newBuilder(uri).POST(chunks));
            client = HttpClient.newHttpClient();
        }
    }
}
"""
"""Takes a URL and sizes of bodies; prints a line for each request: how it was framed, its status, its answer."""


def run_java(source: str, directory: Path, *arguments: str) -> str:
    """Run the class that *source* holds; return what it prints.

    Raises:
        AssertionError: It failed.
    """
    java = shutil.which("java")
    if java is None:
        pytest.skip("there is no Java here; see SYSTEM_PACKAGES in the Makefile")
    file = directory / "Client.java"
    file.write_text(source)
    command = [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(file), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
