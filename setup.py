from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildExtension(build_ext):
    """Leaves the extension in the source tree, too, whatever is built.

    There, ``python -m syncws`` finds the package of the tree before the one that was installed.
    """

    def run(self) -> None:
        super().run()
        if not self.inplace:
            self.copy_extensions_to_source()


setup(cffi_modules=["csrc/build.py:ffibuilder"], cmdclass={"build_ext": BuildExtension})
